"""Sphinx configuration of the documentation: `make docs`. Warnings are errors."""

import aiomodelcache

project = "aiomodelcache"
author = "The aiomodelcache developers"
copyright = f"2026, {author}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design", "sphinxcontrib.mermaid"]

html_theme = "furo"
html_title = "aiomodelcache"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
pygments_dark_style = "github-dark"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
# By default ids are timestamps: two diagrams drawn within a millisecond would share one, and overlap.
mermaid_init_config = {"startOnLoad": False, "deterministicIds": True}
mermaid_height = "auto"  # as high as the diagram; by default 500 px, most of it empty on phones

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 160
# The reference shows classes by the public name that users import.
add_module_names = False

nitpicky = True
_public = "|".join(aiomodelcache.__all__)
# Types in signatures without a page of their own: Python's, Tortoise's, redis-py's, and internal ones.
nitpick_ignore_regex = [(r"py:.*", rf"(?!aiomodelcache\.({_public})$).*")]
