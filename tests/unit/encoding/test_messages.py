"""Values and errors in messages: types and places, never values."""

import traceback

import msgspec
import pytest

from aiomodelcache.encoding.messages import SafeError, described, safe_cause, safe_reason


def test_a_value_is_described_by_its_type() -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

    assert described("secret") == "<str>"
    assert described(10**5_000) == "<int>"
    assert described(None) == "None"
    assert described(Unprintable()).endswith(".Unprintable>")


def test_only_texts_without_values_are_reasons() -> None:
    assert safe_reason(SafeError("the column is not nullable")) == "the column is not nullable"
    assert safe_reason(ValueError("no secret")) == "ValueError"
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.msgpack.decode(msgspec.msgpack.encode([1, "x"]), type=list[int])
    assert safe_reason(caught.value) == "Expected `int`, got `str` - at `$[1]`"
    for text in (
        "Expected `secret",
        "Expected `int`, got `str` - at `$.secret`",
        "secret: Expected `int`",
        "Invalid a b",
    ):
        assert safe_reason(msgspec.ValidationError(text)) == "ValidationError"
    assert safe_reason(TypeError("Expected `int`, got `str`")) == "TypeError"


def test_the_cause_of_a_message_shows_the_place_without_the_text() -> None:
    def convert() -> None:
        raise KeyError("a secret")

    try:
        convert()
    except KeyError as error:
        shown = safe_cause(error)
    assert str(shown) == "KeyError (its text may hold values)"
    text = "".join(traceback.format_exception(shown))
    assert "in convert" in text
    assert "a secret'" not in text
    safe = SafeError("fine")
    assert safe_cause(safe) is safe
