"""``aiomodelcache warm``."""

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aiomodelcache import ModelCache
from tests.support.application import Application
from tests.support.models.shop_models import Listing, Seller
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

ROWS = 60


async def create(cache: ModelCache) -> None:
    seller = await Seller.create(id=1, name="kim")
    numbers = range(1, ROWS + 1)
    await Listing.bulk_create([Listing(id=number, slug=f"secret-{number}", seller=seller) for number in numbers])


@pytest.fixture
def cold(application: Application) -> Application:
    """The application with rows, and without entries."""
    application.do(create)
    return application


def keys(application: Application, kind: str) -> int:
    totals = application.run("keys", "Listing", "--json").data["totals"]
    return sum(total["states"].get("hit", 0) for total in totals if total["kind"] == kind)


def test_all_rows_are_read_by_primary_key(cold: Application) -> None:
    assert keys(cold, "row") == 0
    ran = cold.process("warm", "Listing", "--batch", "25")
    assert ran.out == f"ok {ROWS} rows read, 3 statements for those that were not in the cache\n"
    assert keys(cold, "row") == ROWS
    again = cold.run("warm", "Listing", "--json").data
    assert again == {"target": "Listing", "rows": ROWS, "statements": 0, "resumed": False}


def test_one_row_is_in_the_singular(cold: Application) -> None:
    warmed = cold.run("warm", "Seller", "--limit", "1", "--batch", "1")
    assert warmed.out == "ok 1 row read, 1 statement for those that were not in the cache\n"
    assert cold.run("verify", "Seller", "--sample", "1").out.startswith("ok 1 entry agrees with the database, ")


def test_other_keys_are_read_too(cold: Application) -> None:
    cold.run("warm", "Listing", "--by", "slug", "--by", "seller")
    assert (keys(cold, "row"), keys(cold, "index"), keys(cold, "list")) == (ROWS, ROWS, 1)
    assert cold.run("explain", "Listing", "slug=secret-7", "--json").data["source"] == "cache"


def test_rows_of_other_keys_are_stored_on_a_cluster_too(cold: Application) -> None:
    """A cold lookup by a key stores the key there, and not its row, which is in another partition."""
    with ExitStack() as stack:
        cluster = Cluster([stack.enter_context(ClusterNode()) for _ in range(2)])
        cold.keys["url"] = f'"{cluster.url}?socket_timeout=30"'
        cold.configure()
        cold.run("warm", "Listing", "--by", "slug")
        assert cold.run("warm", "Listing", "--by", "slug", "--json").data["statements"] == 0
        assert cold.run("explain", "Listing", "slug=secret-7", "--json").data["source"] == "cache"


def test_a_key_that_is_null_is_read_too(cold: Application) -> None:
    assert cold.run("warm", "Listing", "--by", "other", "--json").data["rows"] == ROWS
    assert cold.run("explain", "Listing", "other:=null", "--json").data["source"] == "cache"


def test_a_run_that_stopped_is_continued(cold: Application) -> None:
    file = cold.folder / "position.json"
    arguments = ("warm", "Listing", "--batch", "10", "--checkpoint", str(file), "--json")
    assert cold.run(*arguments, "--limit", "20").data["rows"] == 20
    assert "secret" not in file.read_text()
    assert keys(cold, "row") == 20
    assert cold.run(*arguments).data == {"target": "Listing", "rows": ROWS - 20, "statements": 4, "resumed": True}
    assert keys(cold, "row") == ROWS
    assert not file.exists()


def wait_for(file: Path, process: subprocess.Popen[Any]) -> None:
    """Returns once a running process has written a file."""
    until = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)


def test_a_run_that_was_killed_is_continued(cold: Application) -> None:
    file = cold.folder / "position.json"
    arguments = ("warm", "Listing", "--batch", "10", "--checkpoint", str(file))
    process = subprocess.Popen(
        cold.start(*arguments, "--rate", "10"), cwd=cold.folder, env=cold.environment, stdout=subprocess.DEVNULL
    )
    wait_for(file, process)
    process.kill()
    process.wait()
    data = cold.run(*arguments, "--json").data
    assert data["resumed"] is True
    assert 0 < data["rows"] < ROWS
    assert keys(cold, "row") == ROWS


def test_a_store_that_stops_ends_the_run(cold: Application, own_redis: RedisServer) -> None:
    cold.redis = own_redis
    cold.configure()
    file = cold.folder / "position.json"
    arguments = ("warm", "Listing", "--batch", "10", "--rate", "10", "--checkpoint", str(file))
    process = subprocess.Popen(
        cold.start(*arguments), cwd=cold.folder, env=cold.environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(file, process)
    own_redis.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "The store has stopped answering: run the command again." in error
    assert file.exists()


def test_the_rate_is_kept(cold: Application) -> None:
    started = time.monotonic()
    cold.run("warm", "Listing", "--batch", "10", "--rate", "100")
    assert time.monotonic() - started >= ROWS / 100


def test_a_bar_is_shown_only_on_a_terminal(cold: Application) -> None:
    shown = cold.terminal("warm", "Listing")
    assert f"{ROWS}/{ROWS}" in shown
    assert f"{ROWS}/{ROWS}" not in cold.run("warm", "Listing").out


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"what": ["Listing", "id"], "last": "zz"})])
def test_a_file_that_is_no_checkpoint_is_an_error(cold: Application, text: str) -> None:
    file = cold.folder / "position.json"
    file.write_text(text)
    assert "is no checkpoint of warm" in cold.run("warm", "Listing", "--checkpoint", str(file), status=2).err
    assert file.read_text() == text


def test_the_checkpoint_of_another_run_is_an_error(cold: Application) -> None:
    file = cold.folder / "position.json"
    cold.run("warm", "Listing", "--limit", "5", "--checkpoint", str(file))
    ran = cold.run("warm", "Listing", "--by", "slug", "--checkpoint", str(file), status=2)
    assert "is the checkpoint of another run" in ran.err


def test_a_wrong_target_or_key_is_an_error(cold: Application) -> None:
    assert "warm takes a model, and titles is none." in cold.run("warm", "titles", status=2).err
    assert "Keys that exist: get (id), (slug)" in cold.run("warm", "Listing", "--by", "title", status=2).err


def test_a_checkpoint_that_cannot_be_written_is_an_error(cold: Application) -> None:
    file = cold.folder / "no" / "such" / "folder.json"
    assert "A file cannot be used" in cold.run("warm", "Listing", "--checkpoint", str(file), status=2).err
