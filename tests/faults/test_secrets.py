"""No message holds a value: neither a log record, nor an error of the cache, nor the errors that it is chained to."""

import asyncio
import base64
import gc
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, FieldError, MultipleObjectsReturned, OperationalError
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, BatchCacheQuery, CacheError, CacheWriteError, DontCache, ModelCache
from aiomodelcache.encoding.layout import GUARD, STALE, VALUE, new_token, pack_entry, unpack_entry
from aiomodelcache.entries.base import now_ms
from aiomodelcache.query.many_to_many import ManyToManyQuery
from aiomodelcache.testing import CountingBackend
from tests.conftest import run
from tests.faults.test_outages import FailingBackend
from tests.faults.test_poison import ITEMS, RecordingBackend, listing, text
from tests.support.effort import SHARE, share
from tests.support.models.secret_models import (
    NUMBER,
    SECRET,
    Greeting,
    Group,
    MentorOf,
    Person,
    PersonBySlug,
    Profile,
    Pupils,
    Unstorable,
    greet,
)
from tests.support.servers import RedisServer
from tests.write.test_stale import until_idle

pytestmark = [
    pytest.mark.models("tests.support.models.secret_models"),
    pytest.mark.only_on("sqlite", because="messages are those of the cache, whatever the database"),
    pytest.mark.slow(because="tries every message"),
]

FORBIDDEN = (
    SECRET,
    SECRET[::-1],
    SECRET.encode().hex(),
    base64.b64encode(SECRET.encode()).decode()[:7],
    str(NUMBER),
)


def assert_silent(message: str) -> None:
    for value in FORBIDDEN:
        assert value not in message


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that a traceback shows before it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def assert_error_is_silent(error: BaseException) -> None:
    for link in chain(error):
        assert_silent(str(link))
        assert_silent(repr(link))
    # Frames of this file are the caller's own code.
    assert_silent("".join(traceback.format_exception(error)))


def assert_record_is_silent(record: logging.LogRecord) -> None:
    assert_silent(record.getMessage())
    assert_silent(repr(vars(record)))
    arguments = record.args if isinstance(record.args, tuple) else ()
    for error in [*arguments, *(record.exc_info or ())]:
        if isinstance(error, BaseException):
            assert_error_is_silent(error)


@pytest.fixture(autouse=True)
def silent_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Captures every record, and looks into each when the test has ended. Tortoise logs statements with values."""
    caplog.set_level(logging.DEBUG)
    yield
    gc.collect()  # exceptions that nothing has retrieved are logged
    for record in caplog.get_records("call"):
        if not record.name.startswith(("tortoise", "aiosqlite")):
            assert_record_is_silent(record)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aiomodelcache"]


async def fill_tables() -> Person:
    group = await Group.create(name=SECRET)
    person = await Person.create(code=SECRET, slug=SECRET, sealed=SECRET, document={SECRET: [SECRET]})
    await person.groups.add(group)
    await Person.create(code=f"{SECRET} two", slug=f"{SECRET} two", mentor=person, sealed=SECRET)
    return person


def lookups() -> list[Any]:
    """A lookup of each kind, none awaited."""
    return [
        Person.cache.get(code=SECRET),
        Person.cache.get(slug=SECRET),
        Person.cache.get(number=NUMBER, code=SECRET),
        Person.cache.get_or_none(slug=SECRET),
        Person.cache.get_or_404(slug=f"{SECRET} two"),
        Person.cache.filter(number=NUMBER),
        Person.cache.filter(sealed=SECRET),
        Person.cache.filter(mentor=SECRET),
        Person.cache.exists(slug=SECRET),
        Person.cache.count(number=NUMBER),
        Person.cache.get_many([SECRET, f"{SECRET} two"]),
        Person.cache.in_bulk([SECRET], key="slug"),
        Person.cache.get_many([(NUMBER, SECRET)], key=("number", "code")),
        PersonBySlug(SECRET),
        Pupils(SECRET),
        MentorOf(f"{SECRET} two"),
        Profile(SECRET),
        Greeting(SECRET),
        greet.query(SECRET, other=NUMBER),
        BatchCacheQuery({SECRET: Person.cache.get(slug=SECRET)}),
    ]


async def read_everything() -> None:
    for query in lookups():
        await query
    person = await Person.cache.get(code=SECRET)
    await person.groups
    await Person.cache.prefetch([person], "groups", "mentor")
    await asyncio.gather(*[query for query in lookups() if not isinstance(query, BatchCacheQuery)])


# Errors --------------------------------------------------------------------------------------------------


MISTAKES: dict[str, Callable[[Person], Any]] = {
    "text for a number": lambda person: Person.cache.get(number=SECRET, code=SECRET),
    "text for a number of a list": lambda person: Person.cache.filter(number=SECRET),
    "text for a decimal": lambda person: Person.cache.filter(rate=SECRET),
    "text for a date": lambda person: Person.cache.filter(born=SECRET),
    "text for a UUID": lambda person: Person.cache.get(token=SECRET),
    "text for a date in many": lambda person: Person.cache.get_many([SECRET], key="token"),
    "a validator": lambda person: Person.cache.get(code=f"{SECRET}!"),
    "a field's own error": lambda person: Person.cache.filter(sealed=NUMBER),
    "a field's own error in many": lambda person: Person.cache.get_many([NUMBER], key="slug"),
    "a list": lambda person: Person.cache.get(code=[SECRET]),
    "an instance of another model": lambda person: Person.cache.filter(mentor=Group(name=SECRET)),
    "an instance without a key": lambda person: Person.cache.filter(mentor=Person(code=None, slug=SECRET)),
    "text in place of a list": lambda person: Person.cache.get_many(SECRET),
    "half a key": lambda person: Person.cache.get_many([(SECRET,)], key=("number", "code")),
    "no combination": lambda person: Person.cache.get_many([SECRET], key=("number", "code")),
    "a class's key": lambda person: Pupils(Group(name=SECRET)),
    "too many values": lambda person: PersonBySlug(SECRET, SECRET),
    "a result's key": lambda person: Profile(NUMBER),
    "an argument that is no key": lambda person: greet(Unstorable()),
    "an argument of a class that is no key": lambda person: Greeting(Unstorable()),
    "an argument without a key": lambda person: greet(Person(code=None, slug=SECRET)),
    "too many arguments": lambda person: greet(SECRET, SECRET, SECRET),
    "another value's arguments": lambda person: Greeting(SECRET, SECRET),
    "update by a bad value": lambda person: Person.cache.update(person, number=SECRET),
    "update by a value that its field refuses": lambda person: Person.cache.update(person, sealed=NUMBER),
    "update by another instance": lambda person: Person.cache.update(person, mentor=Group(name=SECRET)),
    "update by an unsaved instance": lambda person: Person.cache.update(person, mentor=Person(code=SECRET)),
    "update of an unsaved instance": lambda person: Person.cache.update(Person(code=SECRET), number=1),
    "update of no instance": lambda person: Person.cache.update(SECRET, number=1),  # type: ignore[arg-type]
    "update of no field": lambda person: Person.cache.update(person, colour=SECRET),
    "invalidate by a bad value": lambda person: Person.cache.invalidate(number=SECRET),
    "invalidate by another model": lambda person: Person.cache.invalidate(Group(name=SECRET)),
    "invalidate by a bad key": lambda person: Person.cache.invalidate([f"{SECRET}!"]),
    "prefetch of no instance": lambda person: Person.cache.prefetch([SECRET], "mentor"),  # type: ignore[list-item]
    "set_related of no instance": lambda person: Person.cache.set_related(SECRET, "mentor", person),  # type: ignore[arg-type]
    "set_related to another row": lambda person: Person.cache.set_related(person, "mentor", person),
    "set_related to another model": lambda person: Person.cache.set_related(person, "mentor", Group(name=SECRET)),
    "a batch of values": lambda person: BatchCacheQuery({f"{SECRET}@example.org": SECRET}),  # type: ignore[dict-item]
    "a batch of a list": lambda person: BatchCacheQuery([SECRET]),  # type: ignore[arg-type]
    "explain of a value": lambda person: Person.cache.explain(SECRET),  # type: ignore[call-overload]
    "refresh of a value": lambda person: Person.cache.refresh(SECRET),  # type: ignore[call-overload]
    "no key": lambda person: Person.cache.get(document=SECRET),
    "no row": lambda person: Person.cache.get(slug=f"no {SECRET}"),
    "no row for a client": lambda person: Person.cache.get_or_404(slug=f"no {SECRET}"),
    "no row of a class": lambda person: PersonBySlug(f"no {SECRET}"),
    "several rows": lambda person: Person.cache.get(sealed=SECRET),
    "a forgotten await": lambda person: bool(Person.cache.get(slug=SECRET)),
    "an attribute of a query": lambda person: PersonBySlug(SECRET).born,  # type: ignore[attr-defined]
    "an attribute of a batch": lambda person: greet.query(SECRET).born,  # type: ignore[attr-defined]
}


async def raised_by(call: Callable[[], Any]) -> BaseException | None:
    try:
        await call()
    except Exception as error:
        return error
    return None


@pytest.mark.exhaustive(because="every argument of every public function")
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_no_error_about_an_argument_holds_a_value(cache: ModelCache, mistake: str) -> None:
    person = await fill_tables()

    async def make() -> Any:
        return await MISTAKES[mistake](person)

    error = await raised_by(make)
    assert error is not None
    assert isinstance(error, CacheError | ValueError | TypeError | AttributeError | OperationalError | FieldError)
    assert_error_is_silent(error)
    assert str(error)


async def test_a_missing_row_is_the_error_that_tortoise_raises(cache: ModelCache) -> None:
    for query, expected in [
        (Person.cache.get(slug=SECRET), DoesNotExist(Person)),
        (PersonBySlug(SECRET), DoesNotExist(Person)),
    ]:
        with pytest.raises(DoesNotExist) as caught:
            await query
        assert str(caught.value) == str(expected) == 'Object "Person" does not exist'
    assert str(MultipleObjectsReturned(Person)) == 'Multiple objects returned for "Person", expected exactly one'


async def test_the_repr_of_no_object_holds_a_value(cache: ModelCache) -> None:
    person = await fill_tables()
    through = cache.open_cache.list_of(Person, "groups")
    assert through is not None
    for shown in [
        *lookups(),
        ManyToManyQuery(through, SECRET, cache.open_cache),
        DontCache(SECRET),
        Person.cache,
        greet,
        cache,
        cache.config,
        cache.backend,
        cache.stats,
        person.groups,
    ]:
        assert_silent(repr(shown))
        assert_silent(str(shown))


async def test_an_explanation_names_the_key_and_its_query_no_value(cache: ModelCache) -> None:
    explanation = await Person.cache.explain(slug=SECRET)
    assert_silent(explanation.query)
    assert explanation.key.endswith(f":slug:ssealed {SECRET[::-1]}"), "the form that the database has"


# Log records ----------------------------------------------------------------------------------------------


async def test_no_log_of_a_row_or_value_that_cannot_be_stored_holds_a_value(
    cache: ModelCache, database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await fill_tables()
    await database.execute_query("UPDATE person SET number = 'm4rk3r' WHERE code = ?", [SECRET])  # SQLite permits it
    for _ in range(2):
        await Person.cache.get(slug=SECRET)
        await Profile(SECRET)
        await Greeting(NUMBER)
        await greet(SECRET, other=SECRET)
    cache.stats.of("Person").warned.clear()
    await Person.filter(code=f"{SECRET} two").update(hashed=SECRET)
    await Person.cache.get(code=f"{SECRET} two")
    described = [message.partition("cannot be stored: ")[2] for message in logged(caplog)]
    remedy = "return numbers, text, dates, lists or dicts, or annotate the result with its type"
    unstorable = f"<Unstorable> cannot be cached: {remedy}"
    assert described == [
        "Expected `int | null`, got `str` - at `number`",
        unstorable,
        "ValueError",
        unstorable,
        "hashed is <str>, which would come back as another value (<str>)",
    ]


@pytest.mark.exhaustive(because="thousands of entries, each planted and looked up")
async def test_no_log_of_an_entry_that_cannot_be_read_holds_a_value(
    database: BaseDBAsyncClient, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    recording = RecordingBackend(backend.backend)
    async with ModelCache(recording) as cache:
        await fill_tables()
        for _ in range(2):
            await read_everything()
        entries = {key: value for key, value in recording.read_entries.items() if value[:1] == VALUE}
        assert len(entries) > 10
        for key, entry in entries.items():
            for poison in share(poisons(entry)):
                for counters in cache.stats.by_cache.values():
                    counters.warned.clear()
                await recording.plant(key, poison)
                for query in lookups():
                    error = await raised_by(lambda query=query: query)  # type: ignore[misc]
                    if error is not None:
                        assert_error_is_silent(error)
                await recording.backend.delete([key])
    assert sum("cannot be read" in message for message in logged(caplog)) > 100 // SHARE


def poisons(entry: bytes) -> Iterator[bytes]:
    """Entries that cannot be read, and whose decoder quotes what it read."""
    secret = text(SECRET)
    items = (
        secret,
        text(f"sealed ?{SECRET[::-1]}"),
        ITEMS["a decimal that signals"],
        b"\xc7\x06\x01" + SECRET.encode(),
    )
    payload = unpack_entry(entry)
    contents = [content for item in items for content in (item, listing(item), payload.replace(secret, item))]
    contents += [payload[: len(payload) // 2], payload + secret]
    yield entry[:-1] + b"?"
    yield SECRET.encode()
    for content in contents:
        yield pack_entry(VALUE, new_token(), entry[GUARD], now_ms(), content)
        yield pack_entry(STALE, new_token(), entry[GUARD], 0, VALUE + content)
        yield pack_entry(VALUE, new_token(), entry[GUARD][:-1] + b"?", now_ms(), content)
        yield pack_entry(VALUE, new_token(), b"?" + entry[GUARD][1:], now_ms(), content)


class QuotingBackend(FailingBackend):
    """A store whose errors quote the keys that it was asked for."""

    def __init__(self, store: Any, operation: str) -> None:
        error = KeyError(f"no amc:r:default:person:s{SECRET}, no {NUMBER}")
        super().__init__(store, lambda name, number: operation in (name, "any"), error, carried_out=False)


@pytest.mark.exhaustive(because="lets every kind of operation fail")
@pytest.mark.parametrize("on_write_error", ["retry", "raise"])
@pytest.mark.parametrize("operation", ["read", "lease", "fill", "mark", "clear", "any"])
async def test_no_log_or_error_of_an_outage_holds_a_key(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    caplog: pytest.LogCaptureFixture,
    operation: str,
    on_write_error: Any,
) -> None:
    await fill_tables()
    store = QuotingBackend(backend, operation)
    async with ModelCache(store, on_write_error=on_write_error, breaker_cooldown=0.001, undelivered_limit=10) as cache:
        await read_everything()
        for write in [
            lambda: Person.filter(code=SECRET).update(number=NUMBER),
            lambda: greet.invalidate(SECRET),
            lambda: Person.cache.clear(),
            lambda: Person.cache.invalidate(slug=SECRET),
            lambda: cache.clear_all(),
        ]:
            error = await raised_by(write)
            if error is not None:
                assert isinstance(error, CacheWriteError | BackendError)
                assert_error_is_silent(error)
        async with in_transaction():
            await Person.filter(code=SECRET).update(number=NUMBER) if on_write_error == "retry" else None
    assert any("the cache is not used for now: QuotingBackend failed: KeyError" in line for line in logged(caplog))


async def test_no_log_of_a_failed_refresh_holds_a_value(
    cache: ModelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await fill_tables()
    for _ in range(2):
        await Person.cache.get(code=SECRET)

    async def failing(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError(f"no such column: {SECRET}")

    monkeypatch.setattr("aiomodelcache.engine.statements.load", failing)
    for entries in cache.open_cache.models.values():
        entries.rows.lifetimes.due = b"\xff" * 8
    await Person.cache.get(code=SECRET)
    await until_idle(cache)
    assert any("could not be refreshed: OperationalError" in message for message in logged(caplog))


class ForgetfulServer(RedisServer):
    """A server that does not know commands of the cache, and quotes their arguments when it says so."""

    def _command(self) -> list[Any]:
        forgotten = [("--rename-command", name, "") for name in ("MGET", "EVALSHA")]
        return [*super()._command(), *(part for parts in forgotten for part in parts)]


@pytest.fixture
def forgetful_server() -> Iterator[RedisServer]:
    yield from run(ForgetfulServer())


@pytest.mark.only_on("no store", because="the test has a server of its own")
async def test_no_error_of_the_server_quotes_a_key(
    database: BaseDBAsyncClient, forgetful_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await fill_tables()
    async with ModelCache(forgetful_server.patient_url, on_write_error="raise", breaker_cooldown=0.001) as cache:
        await read_everything()
        for write in (lambda: Person.filter(code=SECRET).update(number=1), lambda: cache.clear_all()):
            error = await raised_by(write)
            assert isinstance(error, BackendError | CacheWriteError)
            assert "unknown command" in str(error)
            assert_error_is_silent(error)
    assert any("unknown command" in message for message in logged(caplog))
