"""The names of the package: one name, one thing."""

import ast
from collections import defaultdict
from pathlib import Path

import aiomodelcache

PACKAGE = Path(aiomodelcache.__file__).parent

SHARED = {
    "Fill",  # public twice: a request to a store, for its authors, and an event, for observers
}
"""Names that two classes have."""


def types_in(source: str) -> set[str]:
    """Returns the classes and the named types of a module, but no type variables, which mean nothing by themselves."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and not is_type_variable(node.value):
            found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {name for name in found if name.lstrip("_")[:1].isupper() and not name.isupper()}


def is_type_variable(value: ast.expr) -> bool:
    return (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("TypeVar", "ParamSpec")
    )


def test_no_two_classes_or_named_types_share_a_name() -> None:
    modules: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in types_in(path.read_text("utf-8")):
            modules[name].append(path.relative_to(PACKAGE).as_posix())
    shared = {name: found for name, found in modules.items() if len(found) > 1}
    assert shared.keys() == SHARED, shared


def test_classes_and_named_types_are_found() -> None:
    source = """
class Read: ...
Rows = Sequence[Row]
Endpoint: TypeAlias = RedisEndpoint | ClusterEndpoint
RowT = TypeVar("RowT")
LIMIT: Final = 10
_codec = Codec()
"""
    assert types_in(source) == {"Read", "Rows", "Endpoint"}
