"""How Sphinx builds the documentation: `make docs`. Whatever it warns of is an error."""

import aiomodelcache

project = "aiomodelcache"
author = "The aiomodelcache developers"
copyright = f"2026, {author}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib.mermaid"]

html_theme = "furo"
html_title = "aiomodelcache"
html_copy_source = False

myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
# What the reference shows is what can be imported, so that a class is called by its public name.
add_module_names = False

nitpicky = True
_public = "|".join(aiomodelcache.__all__)
# Types in signatures that have no page of their own: Python's, Tortoise's, redis-py's, and inner ones.
nitpick_ignore_regex = [(r"py:.*", rf"(?!aiomodelcache\.({_public})$).*")]
