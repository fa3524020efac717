"""Outcomes of writes that raised an exception or were rolled back: nothing was written, or that is not certain."""

from collections.abc import Callable
from traceback import walk_tb
from types import CodeType
from typing import Any, Final, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException, IntegrityError
from tortoise.models import Model

HookT = TypeVar("HookT", bound=Callable[..., Any])

_PRE_CODE: Final[set[CodeType]] = set()
_POST_CODE: Final[set[CodeType]] = set()


def before_statement(hook: HookT) -> HookT:
    """Notes that a method runs before the statement of a save or delete, so that its errors mean that none was sent."""
    _PRE_CODE.add(cast("Any", hook).__code__)
    return hook


def after_statement(hook: HookT) -> HookT:
    """Notes that a method runs after the statement of a save or delete, so that its errors leave the row written."""
    _POST_CODE.add(cast("Any", hook).__code__)
    return hook


for _hook in (Model._pre_save, Model._pre_delete):  # pyright: ignore[reportPrivateUsage]
    before_statement(_hook)
for _hook in (Model._post_save, Model._post_delete):  # pyright: ignore[reportPrivateUsage]
    after_statement(_hook)

_REFUSALS: Final = ("01", "22", "23", "25", "40", "42", "45")
"""SQLSTATE classes of a refusal. They are warning (MySQL's strict mode makes it an error), data, integrity, transaction
state, rollback, syntax and access. The last one is an error of the user's own, as of a trigger."""
_OUTAGES: Final = ("08", "53300", "57P", "58")
"""SQLSTATEs, or their beginnings, of an outage: connection, too many of them, an operator, the server's system.

A timeout and a lack of memory (57014, 53200) are none: a smaller statement may succeed.
"""
_PROTOCOL_VIOLATION: Final = "08P01"
_COMPLETION_UNKNOWN: Final = "40003"
_MYSQL_REFUSALS: Final = (1364, 3819, 1369, 1526, 1748, 3105, 1906)
"""Numbers of MySQL's errors that refuse a row. The column has no default value, the row violates a CHECK constraint or
the CHECK OPTION of a view, no partition may hold the row (two), or a column is generated (two)."""


def is_settled(error: BaseException) -> bool:
    """Returns True if a save or delete that raised this error has written nothing and will write nothing.

    Such an error comes from a listener before the statement, or from a database that refused the write. Or it comes
    from a driver that could not send it, or from Tortoise without a driver's error. After any other error
    (cancellation, a lost connection) the statement may still be in flight.
    """
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code in _PRE_CODE:
            return not isinstance(error, GeneratorExit)  # a closed coroutine cannot await the clearing of its intents
        if frame.f_code in _POST_CODE:
            return False
    if was_refused(error) or any(map(_is_of_driver_alone, [error, *error.args])):
        return True
    if isinstance(error, BaseORMException):
        return not any(isinstance(cause, BaseException) for cause in error.args)
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError | OverflowError)


def was_refused(error: BaseException) -> bool:
    """Returns True if the database answered that it refused a write.

    After any other error (a lost connection, cancellation) the write may have been committed, or may be later.
    """
    if isinstance(error, IntegrityError):
        return True
    causes = (error, error.__cause__, *error.args)
    states = [_sqlstate(cause) for cause in causes]
    refused = any(state.startswith(_REFUSALS) for state in states) or any(map(_is_of_mysql_alone, causes))
    return refused and _COMPLETION_UNKNOWN not in states


def is_outage(error: BaseException) -> bool:
    """Returns True if a statement failed for a reason that concerns neither its size nor a value in it."""
    if isinstance(error, OSError):  # which the conversion of a row may raise, too
        modules = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
        return any(name.startswith("tortoise.backends.") and name.endswith(".client") for name in modules)
    states = [_sqlstate(cause) for cause in (error, error.__cause__, *error.args)]
    return any(state.startswith(_OUTAGES) and state != _PROTOCOL_VIOLATION for state in states)


def ends_transaction(client: BaseDBAsyncClient, error: BaseException) -> bool:
    """Returns True if a statement that failed has ended its transaction, which no earlier error had ended.

    PostgreSQL answers the COMMIT of such a transaction by a rollback, without an error.
    """
    states = [_sqlstate(cause) for cause in (error, error.__cause__, *error.args)]
    return client.capabilities.dialect == "postgres" and "25P02" not in states


def may_survive_rollback(client: BaseDBAsyncClient) -> bool:
    """Returns True if writes of a transaction may be in the database although it was rolled back, or a write failed.

    MySQL commits a transaction at any DDL statement and rolls it back at a deadlock. Later statements of the block
    commit by themselves. Engines without transactions, such as MyISAM, keep each row that was written.
    """
    return bool(client.capabilities.dialect == "mysql")


def _sqlstate(cause: object) -> str:
    return str(getattr(cause, "sqlstate", "") or "")


def _is_of_mysql_alone(cause: object) -> bool:
    """Returns True for a value or a row that MySQL or MariaDB refuses by an error with the general SQLSTATE."""
    names = {base.__name__ for base in type(cause).__mro__}
    known = "DataError" in names or any(number in _MYSQL_REFUSALS for number in getattr(cause, "args", ()))
    return "MySQLError" in names and known


def _is_of_driver_alone(cause: object) -> bool:
    """Returns True for a ``ProgrammingError`` that the database did not send, such as a value of unsupported type."""
    return not _sqlstate(cause) and any(base.__name__ == "ProgrammingError" for base in type(cause).__mro__)
