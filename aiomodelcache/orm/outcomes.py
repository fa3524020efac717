"""Outcomes of writes that raised an exception: nothing was written, or the outcome is unknown."""

from traceback import walk_tb
from typing import Any, Final, cast

from tortoise.exceptions import BaseORMException, IntegrityError
from tortoise.models import Model

_PRE_CODE: Final = [cast("Any", hook).__code__ for hook in (Model._pre_save, Model._pre_delete)]  # pyright: ignore
_POST_CODE: Final = [cast("Any", hook).__code__ for hook in (Model._post_save, Model._post_delete)]  # pyright: ignore


def is_settled(error: BaseException) -> bool:
    """Returns True if a save or delete that raised this error has written nothing and will write nothing.

    Such an error comes from a listener before the statement, from a database that refused the write, or from
    Tortoise without a driver's error. After any other error (cancellation, a lost connection) the statement may still
    be in flight.
    """
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code in _PRE_CODE:
            return not isinstance(error, GeneratorExit)  # a closed coroutine cannot await the clearing of its intents
        if frame.f_code in _POST_CODE:
            return False
    if isinstance(error, BaseORMException):
        return was_refused(error) or not any(isinstance(cause, BaseException) for cause in error.args)
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError)


def was_refused(error: BaseException) -> bool:
    """Returns True if the database answered that it refused a write.

    The SQLSTATE classes of a refusal: 22 data, 23 integrity, 25 transaction state, 40 rollback, 42 syntax and access.
    After any other error (a lost connection, cancellation) the write may have been committed, or may be later.
    """
    if isinstance(error, IntegrityError):
        return True
    causes = [error, error.__cause__, *error.args]
    states = [str(getattr(cause, "sqlstate", "") or "") for cause in causes]
    return any(state[:2] in ("22", "23", "25", "40", "42") for state in states)
