"""Clients of responses, which are derived entries: a client asks again with the validator of the body that it has.

A 304 says that the body is what the server would send now. So a server may say it only of an entry that it could answer
with, and only if the body is the same. A client that gets one answers with its own body.
"""

from tests.protocol.model.computations import Computation, answered
from tests.protocol.model.computing import find, load
from tests.protocol.model.engine import Body
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import DERIVED, Entry, beginning, read


def client(me: str, rules: Rules, requests: int, computation: Computation) -> Body:
    """Requests a response repeatedly."""
    body = None
    for number in range(requests):
        body = yield from request((me, number), rules, computation, body)


def request(me: tuple[str, int], rules: Rules, computation: Computation, body: object) -> Body:
    """Requests a response. ``body`` is the one that the client has, or None. Answers with the one that it has then."""
    if not rules.not_modified_validated and body is not None:
        began, cell = yield beginning(read(DERIVED))
        if isinstance(cell, Entry) and cell.row == body:
            yield answered(began, body, together=True)
            return body
    began, found = yield from find(me, rules, DERIVED, computation)
    stored = isinstance(found, Entry)
    if stored:
        sent = found.row
    else:
        found, _ = yield from load(me, rules, DERIVED, found, computation, None)
        sent = found.value
    if body is not None and not rules.validator_of_content:
        sent = body  # a validator of the resource's name, or one that a refill leaves as it was
    yield answered(began, sent, together=stored)
    return sent
