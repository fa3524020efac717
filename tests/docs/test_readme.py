"""README.md: its code runs, its commands and documents exist, and what is said to be coming is not there yet."""

import re
import sys
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import Any

import pytest

import aiomodelcache
from aiomodelcache import ModelCache, ModelCacheManager
from tests.support.databases import DatabaseUrl, tortoise_on

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
NAME = re.compile(r"`([^`]+)`")
REDIS = '"redis://localhost:6379/0"'


def code(language: str) -> list[str]:
    """README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Any:
    """README's first block, as a module."""
    module = ModuleType("readme_models")
    exec(compile(code("python")[0], "README.md", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


async def test_the_code_runs_and_gives_what_its_comments_say(
    models: Any, db_url: DatabaseUrl, backend_url: str
) -> None:
    _, block = code("python")
    assert block.count(REDIS) == 1
    source = f"async def main():\n{indent(block.replace(REDIS, repr(backend_url)), '    ')}\n    return locals()"
    exec(compile(source, "README.md", "exec"), vars(models))
    # Tortoise keeps its SQL by the connection's name and the table's, and other tests have a User, too.
    async with tortoise_on(DatabaseUrl(db_url, f"readme {db_url.dialect}"), models.__name__):
        kim = await models.User.create(username="kim", team=3)
        pycon = await models.Event.create(slug="pycon", organizer=kim)
        made = await models.main()
    assert (made["event"], made["a"], made["b"]) == (pycon, pycon, kim)
    assert made["event"].slug == "pycon-lisbon"
    assert made["result"] == {"event": pycon, "users": [kim]}
    assert made["owner"] == kim
    assert made["gone"] is None
    assert made["same"] is True


def test_the_commands_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+)(?: [a-z]+)*:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= commands <= targets
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


def test_the_documents_that_it_leads_to_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_nothing_that_exists_is_said_to_be_coming() -> None:
    found = re.search(r"^Coming: (.*)$", README, re.MULTILINE)
    public = {*aiomodelcache.__all__, *dir(ModelCacheManager), *dir(ModelCache)}
    assert found is None or not set(NAME.findall(found[1])) & public
