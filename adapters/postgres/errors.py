"""Database errors, and how the driver's errors become ours."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from enum import StrEnum
from socket import gaierror

import asyncpg
from sqlalchemy.exc import DBAPIError, TimeoutError as PoolTimeout

from guestledger.adapters.postgres.unusable import (
    DATABASE_URL,
    QUOTED,
    DatabaseProblem,
    DatabaseUnusable,
    problem_of,
)
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import GuestledgerError, PartitionRefused, ServiceError, ServiceUnreachable

STATEMENT_CACHE = "prepared_statement_cache_size"

# Data exceptions: their texts quote the value.
_QUOTES_VALUE = "22"
_NOT_PREPARED = ("26000", "42P05")
_NO_LEDGER = ("3F000", "42P01")
_NOT_ALLOWED = "42501"
_MAX_QUOTED = 200
_MAX_SHOWN = 12


class LedgerProblem(StrEnum):
    """Why this release cannot use a ledger."""

    MISSING = "missing"
    VAULT_MISSING = "vault_missing"
    """The database of the key vault lacks its tables."""
    OUTDATED = "outdated"
    TOO_NEW = "too_new"
    """A newer release made or upgraded it."""
    ENCODING = "encoding"
    """The database cannot hold every text, and a guest or the provider may send any."""
    FOREIGN = "foreign"
    """Somebody else has a table or function with a name of the ledger's in its schema."""


class LedgerNotReady(ServiceError):
    """The database answers, but holds no ledger that this release can use."""

    def __init__(
        self, problem: LedgerProblem, schema: str | None = None, *, found: str | None = None, wanted: str | None = None
    ) -> None:
        place = "this database" if schema is None else f"schema {schema!r}"
        match problem:
            case LedgerProblem.MISSING:
                text = f"there is no ledger in {place}"
            case LedgerProblem.VAULT_MISSING:
                text = f"the key vault's database has no key vault in schema {schema!r}"
            case LedgerProblem.OUTDATED:
                text = f"the ledger in {place} is at revision {found}; this release needs {wanted}"
            case LedgerProblem.TOO_NEW:
                text = f"the ledger in {place} is at revision {found}, which this release does not know"
            case LedgerProblem.ENCODING:
                text = f"the database is encoded in {found}, and a ledger needs UTF8"
            case LedgerProblem.FOREIGN:
                text = f"{place} holds {found}: it could run code with the rights of this user"
        super().__init__("database", Cause.NOT_READY, text)
        self.problem = problem
        self.schema = schema
        self.found = found
        self.wanted = wanted

    def __str__(self) -> str:
        return self.detail


class PoolUsedUp(ServiceUnreachable):
    """All `connections` of the host's pool are in use, and none can be opened outside it."""

    def __init__(self, connections: int) -> None:
        super().__init__(
            "database",
            Cause.SERVICE_UNAVAILABLE,
            f"all {connections} connections of the host's pool are in use, perhaps by transactions that wait for the ledger: "
            "call it outside your own transactions, or use a larger pool",
        )
        self.args = (connections,)
        self.connections = connections


class Access(StrEnum):
    """What a database user was refused."""

    STATEMENT = "statement"
    """Any statement of an open ledger."""
    OPEN = "open"
    RUN = "run"
    """To work on due steps."""
    REVEAL = "reveal"
    """To read personal data."""
    CHANGE_TABLES = "change_tables"
    """To create, upgrade or partition a ledger."""


class NotAllowed(ServiceError):
    """The database user lacks a privilege. `refusal` is PostgreSQL's text, `role` the role with the privilege.

    `member`: whether the user has that role already.
    """

    def __init__(
        self,
        access: Access,
        refusal: str,
        *,
        schema: str | None = None,
        role: str | None = None,
        user: str | None = None,
        lacking: tuple[str, ...] = (),
        member: bool = False,
    ) -> None:
        who = f"the database user {user}" if user else "the database user"
        where = f" in schema {schema!r}" if schema else ""
        what = {
            Access.STATEMENT: "may not do this",
            Access.OPEN: f"may not read the ledger{where}",
            Access.RUN: f"may not run the ledger{where}",
            Access.REVEAL: f"may not read personal data{where}",
            Access.CHANGE_TABLES: f"may not create or change the ledger{where}",
        }[access]
        needed = f"; the role {role} may" if role else ""
        super().__init__("database", Cause.FORBIDDEN, f"{who} {what}: {refusal}{needed}")
        self.access = access
        self.refusal = refusal
        self.schema = schema
        self.role = role
        self.user = user
        self.lacking = lacking
        self.member = member

    def __str__(self) -> str:
        return self.detail


class TooManyPrivileges(GuestledgerError):
    """The database user could change the log, as each of `excess` says. `role` is the role it should have instead."""

    def __init__(self, user: str, excess: tuple[str, ...], role: str, *, role_exists: bool) -> None:
        super().__init__(f"the database user {user} can change the log: it {in_short(excess, '; ')}")
        self.user = user
        self.excess = excess
        self.role = role
        self.role_exists = role_exists


class PartitionProblem(StrEnum):
    """Why a partition cannot be detached or attached now."""

    NOT_ATTACHED = "not_attached"
    NOT_DETACHED = "not_detached"
    NOT_OVER = "not_over"
    GROWING = "growing"
    WORK_LEFT = "work_left"
    NOT_PROJECTED = "not_projected"
    REBUILD_UNFINISHED = "rebuild_unfinished"
    NOT_CONSUMED = "not_consumed"
    TABLE_MISSING = "table_missing"
    CONTENTS_DIFFER = "contents_differ"
    EVENT_CHANGED = "event_changed"
    IN_USE = "in_use"


_PROBLEMS = {
    PartitionProblem.NOT_ATTACHED: "it is not attached",
    PartitionProblem.NOT_DETACHED: "it is not detached",
    PartitionProblem.NOT_OVER: "its month is not over, or ended less than a day ago",
    PartitionProblem.GROWING: "it received events meanwhile",
    PartitionProblem.WORK_LEFT: "{} of its sessions still have due steps",
    PartitionProblem.NOT_PROJECTED: "the projection {} has not taken it in",
    PartitionProblem.REBUILD_UNFINISHED: "a rebuild of {} is unfinished",
    PartitionProblem.NOT_CONSUMED: "the consumer {} has not read it",
    PartitionProblem.TABLE_MISSING: "the table {} is not in this database",
    PartitionProblem.CONTENTS_DIFFER: "its table does not hold what was detached ({})",
    PartitionProblem.EVENT_CHANGED: "the event at position {} is not what was recorded",
    PartitionProblem.IN_USE: "a transaction has used the log for more than {}",
}


class PartitionBlocked(PartitionRefused):
    """A partition cannot be detached or attached now. Each problem has a detail: a number, a name or a position."""

    def __init__(self, month: date | None, problems: Sequence[tuple[PartitionProblem, str]]) -> None:
        which = f"the partition {month:%Y-%m}" if month else "the default partition"
        reasons = "; ".join(_PROBLEMS[problem].format(detail) for problem, detail in problems)
        super().__init__(f"{which} cannot be changed: {reasons}")
        self.month = month
        self.problems = tuple(problems)


class UnfitEngine(GuestledgerError):
    """The host application's engine cannot be used."""


class DatabaseFault(GuestledgerError):
    """PostgreSQL rejected a statement: a bug in this release, or its tables were changed."""


def unreachable(cause: Cause, fact: str, setting: str = DATABASE_URL) -> ServiceUnreachable:
    """The error of a database that cannot be used."""
    return ServiceUnreachable(
        "database", cause, fact if setting == DATABASE_URL else f"{fact}: check {setting}".removeprefix(": ")
    )


@contextmanager
def reported(setting: str = DATABASE_URL) -> Iterator[None]:
    """Turn the driver's errors into `ServiceError` or `DatabaseFault`. `setting` names the URL's setting."""
    # `from None` throughout: the driver's own error holds whole rows in its details.
    try:
        yield
    except PoolTimeout:
        raise DatabaseUnusable(DatabaseProblem.POOL_EXHAUSTED, setting=setting) from None
    except TimeoutError:
        raise DatabaseUnusable(DatabaseProblem.NO_ANSWER, setting=setting) from None
    except OSError as error:
        raise no_connection(error, setting) from None
    # InternalClientError: the server closed the connection between two statements.
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise _translated(error.orig if isinstance(error, DBAPIError) and error.orig else error, setting) from None


def in_short(items: tuple[str, ...], separator: str) -> str:
    """The first items in one line, and how many more there are."""
    rest = len(items) - _MAX_SHOWN
    return separator.join(items[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def first_line(text: object) -> str:
    """The first line of an error's text, cut to a readable length."""
    return str(text).partition("\n")[0][:_MAX_QUOTED]


def _translated(error: BaseException, setting: str) -> Exception:
    state = str(getattr(error, "sqlstate", None) or "")
    if not state:
        return _without_sqlstate(error, setting)
    if state in _NO_LEDGER:
        return LedgerNotReady(LedgerProblem.MISSING)
    if state in _NOT_PREPARED:
        return unreachable(
            Cause.PROTOCOL_ERROR,
            "prepared statements are lost, as behind pgbouncer in transaction mode: "
            f"add {STATEMENT_CACHE}=0 to the parameters of {setting}. A lent engine needs the `connect_args` of docs/embedding.md",
        )
    if problem := problem_of(state):
        words = first_line(error.args[0]) if problem in QUOTED and error.args else ""
        return DatabaseUnusable(problem, sqlstate=state, words=words, setting=setting)
    if state.startswith(_QUOTES_VALUE):
        return DatabaseFault(f"PostgreSQL rejected a value (SQLSTATE {state})")
    message = first_line(error.args[0] if error.args else "")
    if state == _NOT_ALLOWED:
        return NotAllowed(Access.STATEMENT, message)
    return DatabaseFault(f"PostgreSQL rejected a statement (SQLSTATE {state}): {message}")


def _without_sqlstate(error: BaseException, setting: str) -> ServiceUnreachable:
    misconfigured = error if isinstance(error, asyncpg.ClientConfigurationError) else error.__cause__
    if isinstance(misconfigured, asyncpg.ClientConfigurationError):
        return unreachable(
            Cause.NOT_CONFIGURED, f"{first_line(misconfigured)}: check {setting} and the PG… environment variables"
        )
    return unreachable(Cause.CONNECTION_LOST, "the server closed the connection", setting)


def no_connection(error: OSError, setting: str = DATABASE_URL) -> ServiceUnreachable:
    """The error of a connection that could not be made or was lost."""
    match error:
        case ConnectionRefusedError():
            cause, detail = Cause.CONNECTION_REFUSED, ""
        case gaierror():
            cause, detail = Cause.NO_ADDRESS, ""
        case TimeoutError():
            cause, detail = Cause.CONNECTION_TIMEOUT, ""
        case ssl.SSLError():
            cause, detail = Cause.TLS_FAILED, getattr(error, "verify_message", "") or error.reason or ""
        case ConnectionError() if "rejected SSL upgrade" in str(error):  # the driver's words
            cause, detail = Cause.TLS_FAILED, "the server does not offer it"
        case FileNotFoundError():
            cause, detail = Cause.CONNECTION_REFUSED, "the server's socket does not exist"
        case _:
            cause, detail = Cause.CONNECTION_LOST, type(error).__name__
    return unreachable(cause, detail, setting)
