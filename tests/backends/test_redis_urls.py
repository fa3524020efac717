"""URLs with passwords: no message, no ``repr`` and no chained error shows any part of one."""

import traceback
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from aiomodelcache import BackendError, CacheConfigurationError, ModelCache, RedisBackend
from aiomodelcache.backends.redis.url import masked
from tests.support.servers.server import free_port

quote_all: Final = partial(quote, safe="")

SECRETS = ("Qx7", "6543", "zz℀")
"""Parts of the passwords of these tests, the second of which could be a port."""
PASSWORDS = st.lists(st.sampled_from([*SECRETS, *"/?#@:&=%[], \\\n+;"]), min_size=1, max_size=6).map("".join)
URLS = (
    "redis://user:{}@localhost:1",
    "redis://user:{}@localhost:port",
    "redis://:{}@localhost/events",
    "rediss://{}@localhost:1/0",
    "redis://{}:@localhost:1/0",
    "redis://user:{}@one:1,two:2",
    "redis://user:{}/more@localhost",
    "redis://localhost:1?password={}&colour=red",
    "redis://localhost:1?PASSWORD={}",
    "redis://localhost:1?db=0&auth={}",
    "redis://localhost:1?passwd={}&db=0",
    "redis://localhost:1?ssl_password={}&db=events",
    "unix:///tmp/no.sock?password={}",
    "unix://user:{}@/tmp/no.sock",
    "unix://user:{}@tmp/no.sock",
    "redis+cluster://user:{}@one:1,two:2",
    "redis+cluster://user:{}@localhost/1",
    "redis+cluster://localhost?auth={}",
    "redis+sentinel://user:{}@localhost",
    "redis+sentinel://user:{}@one:1,two/service/0",
    "redis+sentinel://one:1/service?password={}&colour=red",
    "user:{}@localhost",
    "redis:user:{}@localhost",
    "redis:/user:{}@localhost",
    "http://user:{}@localhost",
    "memory:/user:{}@localhost",
)
"""Right and wrong URLs with a password in them."""


def assert_shows_no_password(message: str) -> None:
    for secret in SECRETS:
        for spelling in (secret, quote(secret), quote_plus(secret), repr(secret)[1:-1]):
            assert spelling not in message


@pytest.mark.slow(because="tries a thousand passwords")
@given(url=st.sampled_from(URLS), password=PASSWORDS, escape=st.sampled_from([str, quote_all]))
@settings(max_examples=1_000, deadline=None)
@example("redis+sentinel://user:{}@one:1,two/service/0", "6543/Qx7", str)
@example("redis://user:{}@localhost:1", "6543?Qx7", str)
@example("unix://user:{}@/tmp/no.sock", "@/Qx7", str)
def test_no_message_about_a_url_shows_its_password(url: str, password: str, escape: Callable[[str], str]) -> None:
    assume(escape is quote_all or "&" not in password or "?" not in url)  # an & that is not escaped begins an option
    complete = url.format(escape(password))
    assert_shows_no_password(masked(complete))
    try:
        backend = RedisBackend(complete)
    except CacheConfigurationError as caught:
        error: BaseException | None = caught
        while error is not None:
            assert_shows_no_password(str(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    else:
        assert_shows_no_password(repr(backend))
        assert_shows_no_password(repr(ModelCache(complete)))


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}", "redis://127.0.0.1:{1}?password={0}"])
async def test_no_error_of_a_connection_shows_the_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("", "+cluster", "+sentinel"):
        path = "/service" if kind == "+sentinel" else ""
        complete = url.replace("redis", f"redis{kind}").format(quote_all("Qx7@/"), free_port()).replace("?", f"{path}?")
        backend = RedisBackend(complete if "?" in complete else complete + path)
        with pytest.raises(BackendError, match=r"cannot be reached|answered with an error") as caught:
            await backend.open()
        assert_shows_no_password("".join(traceback.format_exception(caught.value)))
    assert_shows_no_password(caplog.text)


def test_the_url_in_a_message_can_be_recognised() -> None:
    assert masked("redis://user:secret@one:1/2?db=3&password=x&auth=y&z") == (
        "redis://***@one:1/2?db=3&password=***&auth=***&***"
    )
    assert masked("unix://:secret@/tmp/redis.sock") == "unix://***@/tmp/redis.sock"
    assert masked("redis+cluster://[::1]:7000,two:x") == "redis+cluster://[::1]:7000,two:***"
    assert masked("redis://user:se/cret@one") == "redis://***"
    assert masked("user:se/cret@one") == "***"
    assert masked("redis://user:secret") == "redis://user:***", "the host was forgotten"
    assert masked("localhost:6379") == "localhost:6379"
    assert masked("") == ""


def test_an_at_sign_may_be_in_a_password_and_in_no_other_place() -> None:
    RedisBackend("redis://user:p@ss@one")
    RedisBackend("redis://one?password=p@ss")
    RedisBackend("unix:///tmp/a@b.sock")
    for url in ("redis://user:1/2@one", "redis+sentinel://user:1/2@one/service", "redis://one/0#a@b"):
        with pytest.raises(CacheConfigurationError, match=r"an @ follows the host; .* %2F"):
            RedisBackend(url)
