"""The page about the command line shows what each command prints, and has them all."""

import re
from pathlib import Path

import pytest

from aiomodelcache.cli.main import commands
from tests.docs.command_line import BLOCK, PAGE, outputs, shop
from tests.support.effort import all_effort
from tests.support.servers import RedisServer

NORMALISED = (
    (re.compile(r"\b[0-9a-f]{32}\b"), "TOKEN"),
    (re.compile(r"\b(\d+(\.\d+)?[smhd])( \d+[smhd])?\b"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? (B|kB|MB)(?!\S)"), "SIZE"),
    (re.compile(r"\d+([.,:]\d+)*"), "0"),
    (re.compile(r"[─━╸╺]+"), ""),
)


def words(output: str) -> set[str]:
    """Returns the words of an output, with one word for all numbers, sizes and durations."""
    for pattern, word in NORMALISED:
        output = pattern.sub(word, output)
    return set(output.split())


def test_the_page_has_every_command() -> None:
    shown = {block["arguments"].partition(" ")[0] for block in BLOCK.finditer(PAGE.read_text("utf-8"))}
    assert shown == {*commands.commands} - {"publication"}, "which needs PostgreSQL, and the page has SQLite"


def test_every_option_of_a_command_is_on_the_page() -> None:
    shared = {"--tortoise", "--url", "--namespace", "--import", "--config", "--json", "--values"}
    text = PAGE.read_text("utf-8")
    missing = [
        f"{name} {option}"
        for name, command in commands.commands.items()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option not in shared and option not in text
    ]
    assert missing == []


@all_effort
@pytest.mark.slow(because="it runs nineteen processes one after the other")
def test_the_outputs_on_the_page_are_those_of_the_commands(tmp_path: Path, own_redis: RedisServer) -> None:
    """The numbers, and so the number of lines, may differ. ``python -m tests.docs.command_line`` writes the outputs."""
    with shop(tmp_path, own_redis) as made:
        for block, output in outputs(PAGE.read_text("utf-8"), made):
            assert words(block["output"]) == words(output), block["arguments"]
