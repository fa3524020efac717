"""The names of the package, and of the classes of what measures and tests it: one name, one thing."""

import ast
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

import aiomodelcache

PACKAGE = Path(aiomodelcache.__file__).parent
ROOT = Path(__file__).parents[2]

SHARED = {
    "Fill",  # public twice: a request to a store, for its authors, and an event, for observers
}
"""Names that two classes of the package have."""
TWINS = {
    "register_model_cache",  # public: the same for every web framework
    "not_found",  # the handler that it registers there
    "install_command", "remove_command", "sql_command", "status_command",  # the same for triggers and for a publication
    "is_version", "new_token",  # the library's and those of the conformance suite, which must not trust the library
    "logger",
}  # fmt: skip
"""Names that functions or constants of several modules have, because they mean the same."""

METAPHORS = {
    "alive", "announce", "believe", "complain", "dead", "forget", "hear", "heal", "life", "lives", "lose", "patience",
    "patient", "promise", "recall", "relieve", "remember", "settle", "survive", "tell", "told", "trouble",
}  # fmt: skip
"""Words that functions, methods and parameters do not have in their names, because the field has other terms."""
FIELD_TERMS = {"may_survive_rollback"}
"""Names that have such a word and are the field's own."""


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


def functions_and_constants_in(source: str) -> set[str]:
    """Returns the functions and the constants of a module that other modules may import."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and not is_type_variable(node.value):
            found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {name for name in found - types_in(source) if not name.startswith("_")}


def names_of_functions_in(source: str) -> set[str]:
    """Returns the names of all functions and methods of a module, and of their parameters."""
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    names = {each.name for each in functions if not each.name.startswith("test_")}
    return names | {parameter.arg for each in functions for parameter in (*each.args.args, *each.args.kwonlyargs)}


def shared(names_in: Callable[[str], set[str]], folder: Path = PACKAGE) -> dict[str, list[str]]:
    """Returns the modules of each name that several modules define."""
    modules: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        for name in names_in(path.read_text("utf-8")):
            modules[name].append(path.relative_to(folder).as_posix())
    return {name: found for name, found in modules.items() if len(found) > 1}


def is_type_variable(value: ast.expr) -> bool:
    return (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("TypeVar", "ParamSpec")
    )


def test_no_two_classes_or_named_types_share_a_name() -> None:
    assert shared(types_in).keys() == SHARED, shared(types_in)


def test_no_two_functions_or_constants_share_a_name() -> None:
    found = shared(functions_and_constants_in)
    assert found.keys() == TWINS, {name: found.get(name) for name in found.keys() ^ TWINS}


def test_no_function_is_named_by_a_metaphor() -> None:
    found = {
        name: path.name
        for path in PACKAGE.rglob("*.py")
        for name in names_of_functions_in(path.read_text("utf-8"))
        if not METAPHORS.isdisjoint(name.split("_"))
    }
    assert found.keys() == FIELD_TERMS, found


@pytest.mark.parametrize("folder", ["soak", "benchmarks", "tests/support"])
def test_no_two_classes_of_tools_share_a_name(folder: str) -> None:
    found = shared(types_in, ROOT / folder)
    assert {name: at for name, at in found.items() if not any(is_of_models(each) for each in at)} == {}


def is_of_models(module: str) -> bool:
    """Returns True if the classes of a module are named as their tables are."""
    return {"models", "models.py"} & {*Path(module).parts} != set()


def test_names_are_found() -> None:
    source = """
class Read: ...
Rows = Sequence[Row]
Endpoint: TypeAlias = RedisEndpoint | ClusterEndpoint
RowT = TypeVar("RowT")
LIMIT: Final = 10
_codec = Codec()
logger = getLogger()
def read(): ...
async def _read(): ...
"""
    assert types_in(source) == {"Read", "Rows", "Endpoint"}
    assert functions_and_constants_in(source) == {"LIMIT", "logger", "read"}
    method = "class Read:\n    def life(self, patience, *, told): ...\n    def test_a_life(self): ..."
    assert names_of_functions_in(method) == {"life", "self", "patience", "told"}
