"""Whether a write that raised an exception has been, or may still be, written."""

from traceback import walk_tb
from typing import Any, Final, cast

from tortoise.exceptions import BaseORMException, IntegrityError
from tortoise.models import Model

_BEFORE: Final = [cast("Any", method).__code__ for method in (Model._pre_save, Model._pre_delete)]  # pyright: ignore
_AFTER: Final = [cast("Any", method).__code__ for method in (Model._post_save, Model._post_delete)]  # pyright: ignore


def is_settled(error: BaseException) -> bool:
    """Whether a save or delete that raised this will not write anything any more.

    So it is if a listener raised before the statement, if the database refused, or if Tortoise did, without a
    driver's error inside. After anything else (cancellation, a lost connection) the statement may be under way.
    """
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code in _BEFORE:
            return not isinstance(error, GeneratorExit)  # which leaves no time to say so
        if frame.f_code in _AFTER:
            return False
    if isinstance(error, BaseORMException):
        return was_refused(error) or not any(isinstance(cause, BaseException) for cause in error.args)
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError)


def was_refused(error: BaseException) -> bool:
    """Whether the database is known to have refused a write: it answered, and said no.

    SQLSTATE classes: 22 data, 23 integrity, 25 transaction state, 40 rollback, 42 syntax and access. With
    anything else (a lost connection, cancellation) the write may have been committed, or may yet be.
    """
    if isinstance(error, IntegrityError):
        return True
    causes = [error, error.__cause__, *error.args]
    states = [str(getattr(cause, "sqlstate", "") or "") for cause in causes]
    return any(state[:2] in ("22", "23", "25", "40", "42") for state in states)
