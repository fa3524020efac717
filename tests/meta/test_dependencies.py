"""Every runtime dependency in ``pyproject.toml`` is imported by the package that users install."""

import ast
import functools
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import aiomodelcache

PACKAGE = Path(aiomodelcache.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]]
OPTIONAL = PACKAGE / "testing"
"""The folder that applications in production do not import, so its imports do not count."""


@functools.cache
def imported() -> frozenset[str]:
    """Returns the top-level packages that this package imports at runtime."""
    paths = [path for path in PACKAGE.rglob("*.py") if OPTIONAL not in path.parents]
    return frozenset(name for path in paths for name in imports(ast.parse(path.read_text())))


def imports(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.If() if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                yield from imports(child)
        case ast.Import():
            yield from (alias.name.partition(".")[0] for alias in node.names)
        case ast.ImportFrom(module=str(module), level=0):
            yield module.partition(".")[0]
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imports(child)


@functools.cache
def distributions_by_module() -> Mapping[str, list[str]]:
    """Returns the distributions that install each top-level module, for which all installed files are read."""
    return packages_distributions()


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_a_declared_dependency_is_imported(dependency: str) -> None:
    provided = {
        module
        for module, distributions in distributions_by_module().items()
        if dependency in map(canonicalize_name, distributions)
    }
    assert provided, f"{dependency} is declared and not installed"
    assert provided & imported(), f"{dependency} is declared, but aiomodelcache imports none of {sorted(provided)}"


def test_imports_for_type_checkers_do_not_count() -> None:
    source = (
        "import a.b\nif TYPE_CHECKING:\n    import c\nelse:\n    from d.e import f\nfrom .g import h\ndef i(): import j"
    )
    assert set(imports(ast.parse(source))) == {"a", "d", "j"}
