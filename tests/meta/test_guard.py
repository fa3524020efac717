"""``make bench-guard`` fails for a planted slowdown, and passes two equal sides."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compare import Pair, paired
from benchmarks.guard import versions
from tests.support.effort import all_effort

ROOT = Path(__file__).parents[2]
SLOWDOWN = """
_get = ModelCacheManager.get


def _slow_get(self, *arguments, **settings):
    for _ in range(4000):
        pass
    return _get(self, *arguments, **settings)


ModelCacheManager.get = _slow_get
"""
"""Work for about two hits, so that no noise hides it. Only lookups by ``get`` do it."""


def guarded(base: Path | str, head: Path | str, *cases: str) -> subprocess.CompletedProcess[str]:
    """Compares two versions on SQLite with few rounds, whose noise on a busy machine may exceed the usual limit."""
    options = [option for case in cases for option in ("--case", case)]
    command = [sys.executable, "-m", "benchmarks.guard", "--base", str(base), "--head", str(head), *options]
    return subprocess.run(
        [*command, "--database", "sqlite", "--rounds", "8", "--limit", "50"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.exhaustive(because="measures two versions again and again")
@pytest.mark.slow(because="measures two versions in several processes")
def test_a_planted_slowdown_fails(redis_url: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "aiomodelcache", tmp_path / "aiomodelcache", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "aiomodelcache" / "declare" / "manager.py").open("a") as manager:
        manager.write(SLOWDOWN)
    done = guarded(ROOT, tmp_path, "hit by pk", "get_many of 100")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "Slower by more than 50 %: hit by pk."


@all_effort
@pytest.mark.exhaustive(because="measures two versions again and again")
@pytest.mark.slow(because="measures two versions in several processes")
def test_equal_sides_pass(redis_url: str) -> None:
    done = guarded(ROOT, ROOT, "hit by", "get_many of 100", "list of 50")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "Slower by more than 50 %: none."


def test_a_version_that_does_not_exist_is_named(redis_url: str) -> None:
    done = guarded("no-such-version", ROOT)
    assert done.returncode != 0
    assert "no-such-version is neither a folder nor a commit" in done.stderr


def test_an_unknown_case_is_an_error(redis_url: str) -> None:
    done = guarded(ROOT, ROOT, "hit by moon")
    assert done.returncode != 0
    assert "No case of both versions has one of ['hit by moon'] in its name" in done.stderr


@pytest.mark.parametrize(
    ("base", "head", "instructions", "slower"),
    [
        ([1.0, 1.0, 1.0], [1.1, 1.1, 1.1], None, True),
        ([1.0, 1.0, 1.0], [1.1, 1.1, 1.1], (100, 100), True),  # in C
        ([1.0, 1.0, 1.0], [1.04, 1.04, 1.04], (100, 104), False),
        ([1.0, 1.5, 1.5], [1.2, 1.5, 1.5], None, False),  # one lucky sample of the base
        ([1.0, 1.0, 1.0], [1.0, 1.6, 1.7], (100, 100), False),  # other load during two rounds
        ([1.0, 1.0, 1.0], [1.0, 1.1, 1.1], (100, 110), True),  # one lucky sample of the slower one
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], (100, 120), False),  # more instructions, which are no slower
    ],
)
def test_slower_means_by_rounds_and_by_one_more(
    base: list[float], head: list[float], instructions: tuple[float, float] | None, slower: bool
) -> None:
    _, found = paired([Pair("a case", base, head, instructions)], 5)
    assert found == (["a case"] if slower else [])


def test_commits_are_unpacked_and_the_base_is_where_the_branch_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, module = tmp_path / "repository", tmp_path / "repository" / "aiomodelcache" / "module.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(versions, "ROOT", repository)

    def commit(text: str) -> str:
        module.write_text(text)
        versions.git("add", ".")
        versions.git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", text)
        return versions.git("rev-parse", "HEAD")

    versions.git("init", "-qb", "main")
    first, second = commit("first"), commit("second")
    assert versions.default_base() == first
    module.write_text("not committed")
    assert versions.default_base() == second
    versions.git("checkout", "-qb", "branch")
    commit("third")
    assert versions.default_base() == second
    folder = versions.checkout(first, tmp_path / "unpacked")
    assert (folder / "aiomodelcache" / "module.py").read_text() == "first"
    assert versions.checkout(str(repository), tmp_path) == repository
