"""The voice of the project: the first words of docstrings, and words that no docstring, comment or document uses.

ruff's rules ``D`` check the form of docstrings. This module checks the rules that ruff does not have.
"""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ("aiomodelcache", "pytest_aiomodelcache.py")
CODE = (*PACKAGE, "tests", "benchmarks", "soak", "examples")
DOCUMENTS = (*sorted(path.name for path in ROOT.glob("*.md")), "docs", "examples")

PENDING: tuple[str, ...] = ()
"""Prefixes of paths whose prose is still to be rewritten. Findings in these files are ignored."""

UNWANTED = re.compile(
    r"\b(somebody|nobody|whoever|everybody|anybody|what\s+is|in\s+vain|look-ups?|query\s+sets?)\b",
    re.IGNORECASE,
)
"""Words that hide the component that acts or the thing that is meant, and words that have one established form."""
WORD_LISTS = {"tests/meta/test_voice.py", "tests/docs/test_docs.py"}
"""Modules that hold such words to look for them."""
QUESTION_WORDS = {"How", "Of", "That", "What", "When", "Where", "Whether", "Which", "Who", "Whom", "Whose", "Why"}
"""Words with which a docstring answers a question, instead of beginning with a verb or a noun."""
IMPERATIVES = {"Create", "Get", "Give", "Make", "Return", "Set"}
"""Imperatives that are refused in any case. Others are refused if a docstring begins with their third person."""

MAX_WORDS = 25
"""Maximum number of words of a sentence of a document. A longer one has more than one idea."""
LONG_SENTENCES = {
    "README.md": 1,  # the list of tasks
    "docs/index.md": 1,  # a measured sentence
    "docs/performance.md": 2,  # what was measured, and with which peers
}
"""Maximum numbers of longer sentences, by document. Lower a number when you cut one."""
LONG_DOCSTRING_SENTENCES = {"aiomodelcache/backends/protocol.py": 1, "aiomodelcache/backends/redis/leasing.py": 1}
"""Maximum numbers of longer sentences in docstrings of public names, by module."""

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Docstring(NamedTuple):
    """The docstring of a public name."""

    line: int
    name: str
    text: str
    is_function: bool
    """False for modules, classes and attributes, and for functions that are read like attributes."""

    @property
    def first_word(self) -> str:
        """The first word, or "" if the docstring begins with code or a quotation."""
        match = re.match(r"[\w'-]+", self.text)
        return match[0] if match else ""


# The first words of docstrings ---------------------------------------------------------------------------


def docstrings(node: Definition, name: str = "module") -> Iterator[Docstring]:
    """Yields the docstrings of a module and of its public classes, functions, methods and attributes."""
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    own = ast.get_docstring(node)
    if own is not None:
        yield Docstring(node.body[0].lineno, name, own, is_function and not is_attribute(node))
    if is_function:
        return
    for child, successor in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not child.name.startswith("_"):
                yield from docstrings(child, child.name)
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            target = ast.unparse(child.targets[0] if isinstance(child, ast.Assign) else child.target)
            text = successor.value if isinstance(successor, ast.Expr) else None
            if not target.startswith("_") and isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield Docstring(text.lineno, target, text.value, is_function=False)


def is_attribute(node: Definition) -> bool:
    """Returns True for a property and for a pytest fixture: their docstrings begin with a noun."""
    decorators = [] if isinstance(node, ast.Module) else node.decorator_list
    return any(re.search("property|fixture", ast.unparse(decorator)) for decorator in decorators)


def third_persons(verb: str) -> set[str]:
    return {f"{verb}s", f"{verb}es", re.sub("y$", "ies", verb)} - {verb}


def complaint(docstring: Docstring, verbs: Collection[str]) -> str | None:
    """Returns the reason for which the first word is refused, or None.

    ``verbs`` are the first words of all functions: "Return" is refused because others begin with "Returns".
    """
    word = docstring.first_word
    if word in QUESTION_WORDS:
        return f"begins with {word!r} instead of a verb in the third person or a noun"
    if word[:1].islower():
        return f"begins with {word!r} instead of a capital letter"
    if docstring.is_function and (word in IMPERATIVES or not third_persons(word).isdisjoint(verbs)):
        return f"begins with the imperative {word!r} instead of the third person"
    return None


def complaints(sources: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yields a line for each refused docstring in sources, given by name."""
    by_name = {name: list(docstrings(ast.parse(source))) for name, source in sources}
    verbs = {docstring.first_word for listed in by_name.values() for docstring in listed if docstring.is_function}
    for name, listed in by_name.items():
        for docstring in listed:
            reason = complaint(docstring, verbs)
            if reason is not None:
                yield f"{name}:{docstring.line}: the docstring of {docstring.name} {reason}"


# Unwanted words ------------------------------------------------------------------------------------------


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yields the comments and string literals of a module, each with its line."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():  # no name
            yield node.lineno, node.value


def without_code(document: str) -> str:
    """Returns a Markdown document without its code. Lines keep their numbers."""

    def line_ends(code: re.Match[str]) -> str:
        return "\n" * code[0].count("\n")

    blocks_removed = re.sub(r"^( *)(`{3,}).*?^\1\2 *$", line_ends, document, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", line_ends, blocks_removed, flags=re.DOTALL)


def sentences(document: str) -> Iterator[str]:
    """Yields the sentences of a document's paragraphs and lists. Code is one word, and a link is its text."""
    text = re.sub(r"^( *)(`{3,}).*?^\1\2 *$", "", document, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\A---\n.*?^---$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *([|#<]|:::).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`+[^`]+`+", "`code`", text)
    text = re.sub(r"(\[[^\]]*\])\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|^ *(?:[-*]|\d+\.) ", text, flags=re.MULTILINE):
        yield from re.split(r"(?<=[.!?])[)\"*]*\s+(?=[A-Z0-9`*(\"\[])", " ".join(paragraph.split()))


def prose_of(docstring: str) -> str:
    """Returns a docstring without floor plans, tables, trees and examples."""
    text = "" if "====" in docstring else inspect.cleandoc(docstring).partition("Top to bottom:")[0]
    return re.sub(r"^ *(>>>|\.\.\.|[├│└]| {4}).*$", "", text, flags=re.MULTILINE)


def words_in(sentence: str) -> int:
    return sum(re.search(r"\w", word) is not None for word in sentence.split())


def unwanted_words(text: str, line: int = 1) -> Iterator[tuple[int, str]]:
    """Yields the unwanted words of a text, each with its line. The text begins at ``line``."""
    for match in UNWANTED.finditer(text):
        yield line + text.count("\n", 0, match.start()), match[0]


# The project ---------------------------------------------------------------------------------------------


def files(places: Iterable[str], pattern: str) -> Iterator[tuple[str, str]]:
    """Yields the files to be checked: their names and texts."""
    for place in places:
        path = ROOT / place
        for file in sorted(path.rglob(pattern)) if path.is_dir() else [path]:
            name = file.relative_to(ROOT).as_posix()
            if name not in WORD_LISTS and "_build" not in file.parts and not name.startswith(PENDING):
                yield name, file.read_text("utf-8")


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    assert list(complaints(files(PACKAGE, "*.py"))) == []


@pytest.mark.slow(because="reads every test")
def test_code_has_no_unwanted_words() -> None:
    found = [
        f"{name}:{line}: {word!r}"
        for name, source in files(CODE, "*.py")
        if UNWANTED.search(source)  # most modules need no parsing
        for start, text in texts(source)
        for line, word in unwanted_words(text, start)
    ]
    assert found == []


def test_scripts_have_no_unwanted_words() -> None:
    scripts = list(files(["aiomodelcache"], "*.lua"))
    assert [f"{name}:{line}: {word!r}" for name, script in scripts for line, word in unwanted_words(script)] == []


def test_documents_have_no_unwanted_words() -> None:
    documents = list(files(DOCUMENTS, "*.md"))
    assert [
        f"{name}:{line}: {word!r}" for name, text in documents for line, word in unwanted_words(without_code(text))
    ] == []


def test_documents_have_short_sentences() -> None:
    found = {
        name: [sentence for sentence in sentences(text) if words_in(sentence) > MAX_WORDS]
        for name, text in files(DOCUMENTS, "*.md")
    }
    assert {name: long for name, long in found.items() if len(long) > LONG_SENTENCES.get(name, 0)} == {}


def test_docstrings_have_short_sentences() -> None:
    found = {
        name: [
            sentence
            for docstring in docstrings(ast.parse(source))
            for sentence in sentences(prose_of(docstring.text))
            if words_in(sentence) > MAX_WORDS
        ]
        for name, source in files(PACKAGE, "*.py")
    }
    assert {name: long for name, long in found.items() if len(long) > LONG_DOCSTRING_SENTENCES.get(name, 0)} == {}


# The checks ----------------------------------------------------------------------------------------------

GOOD = '''
"""``sample``: a module."""

LIMIT = 1
"""Maximum number of rows."""
_limit = 2
"""What is private is not checked."""


class Sample:
    """A sample."""

    @property
    def size(self):
        """Return values in bytes: a property begins with a noun, even with one that looks like a verb."""

    def save(self):
        """Returns the number of rows."""

    def _save(self):
        """Whether it is saved."""


class _Sample:
    """How to sample."""
'''


Place = Callable[[str], str]
"""Returns the source of a module that has a docstring in one place."""


def in_module(text: str) -> str:
    return f'"""{text}"""'


def in_class(text: str) -> str:
    return f'class Sample:\n    """{text}"""'


def in_function(text: str) -> str:
    return f'async def save():\n    """{text}"""'


def in_method(text: str) -> str:
    return f'class Sample:\n    def save(self):\n        """{text}"""'


def in_attribute(text: str) -> str:
    return f'class Sample:\n    limit: int = 1\n    """{text}"""'


PLACES: list[Place] = [in_module, in_class, in_function, in_method, in_attribute]


def test_good_docstrings_pass() -> None:
    assert list(complaints([("good", GOOD)])) == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("word", sorted(QUESTION_WORDS))
def test_question_words_are_refused(place: Place, word: str) -> None:
    [found] = complaints([("bad", place(f"{word} is stored."))])
    assert f"begins with {word!r} instead of a verb" in found


@pytest.mark.parametrize("place", PLACES)
def test_lower_case_is_refused(place: Place) -> None:
    [found] = complaints([("bad", place("returns rows."))])
    assert found.endswith("begins with 'returns' instead of a capital letter")


@pytest.mark.parametrize("place", [in_function, in_method])
@pytest.mark.parametrize(
    ("imperative", "others"),
    [("Return", []), ("Get", []), ("Make", []), ("Mend", ["Mends"]), ("Push", ["Pushes"]), ("Copy", ["Copies"])],
)
def test_imperatives_are_refused(place: Place, imperative: str, others: list[str]) -> None:
    sources = [("good", in_function(f"{other} rows.")) for other in others]
    [found] = complaints([*sources, ("bad", place(f"{imperative} rows."))])
    assert found.startswith("bad:")
    assert found.endswith(f"begins with the imperative {imperative!r} instead of the third person")


def test_a_verb_without_a_third_person_elsewhere_may_be_a_noun() -> None:
    assert list(complaints([("good", in_function("Copy of the rows."))])) == []


@pytest.mark.parametrize(
    "word",
    [
        "somebody",
        "Nobody",
        "WHOEVER",
        "everybody",
        "anybody",
        "what is",
        "what\nis",
        "in vain",
        "look-up",
        "look-ups",
        "query sets",
    ],
)
def test_unwanted_words_are_found_in_comments_strings_and_documents(word: str) -> None:
    line = word.replace("\n", " ")
    source = f'rows = 1  # for {line}\n"""Text,\nfor {word} here"""\nerror = f"{{rows}} for {line} here"\n'
    lines = [found for start, text in texts(source) for found, _ in unwanted_words(text, start)]
    assert sorted(lines) == [1, 3, 4 + word.count("\n")]
    document = f"# Title\n\n```python\n{line}\n```\n\nText `{line}` and\n{word} here.\n"
    assert list(unwanted_words(without_code(document))) == [(8, word)]


def test_parts_of_words_are_not_found() -> None:
    assert list(unwanted_words("somebody_else lookups whatever is vain, what isolates")) == []


def test_sentences_end_with_their_paragraphs_and_code_is_one_word() -> None:
    document = """---
title: It is no sentence
---

# A heading

It has `two words of code` and [a *link*](address of it). "Its end." Then
it goes on: one line.

- An item
- Another item. Its second sentence

| a | table |

```python
no = sentence
```
"""
    found = [sentence for sentence in sentences(document) if sentence]
    assert found == [
        "It has `code` and [a *link*].", '"Its end.', "Then it goes on: one line.",
        "An item", "Another item.", "Its second sentence",
    ]  # fmt: skip
    assert [words_in(sentence) for sentence in found] == [6, 2, 6, 2, 2, 3]


def test_the_prose_of_a_docstring_has_no_examples_and_no_floor_plan() -> None:
    docstring = """Rows of a model.

    >>> await Event.cache.get(id=1)
    ... .title

        An example

    Its second part. Top to bottom: ``rows`` (all of them), ``indexes``.
    """
    assert prose_of(docstring).split() == ["Rows", "of", "a", "model.", "Its", "second", "part."]
    assert prose_of("States.\n\n===== =====\nstate layout\n===== =====") == ""
