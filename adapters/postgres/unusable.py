"""Why a database that answers cannot be used, by SQLSTATE (PostgreSQL's documentation, "Error Codes")."""

from collections.abc import Mapping
from enum import StrEnum

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable

DATABASE_URL = "GUESTLEDGER_DATABASE_URL"


class DatabaseProblem(StrEnum):
    """Why the database cannot be used now."""

    READ_ONLY = "read_only"
    DISK_FULL = "disk_full"
    OUT_OF_MEMORY = "out_of_memory"
    NO_DATABASE = "no_database"
    LOGIN_REFUSED = "login_refused"
    NO_CONNECTION_LEFT = "no_connection_left"
    """The server accepts no more connections, from this user or at all."""
    POOL_EXHAUSTED = "pool_exhausted"
    """All connections of this process are in use."""
    STARTING = "starting"
    """The server starts, stops or recovers."""
    CONNECTION_ENDED = "connection_ended"
    """The server ended the connection: it was shut down, or an administrator did it."""
    CANCELLED = "cancelled"
    """The server cancelled the statement, as at its `statement_timeout`."""
    NO_ANSWER = "no_answer"
    """A statement got no answer in time."""
    LOCKED = "locked"
    TRANSACTION_ENDED = "transaction_ended"
    """The server ended a transaction that took too long, or conflicted with another one."""
    FAILING = "failing"
    """Anything else that is no fault of the statement."""


FACTS: Mapping[DatabaseProblem, str] = {
    DatabaseProblem.READ_ONLY: "it is read-only: a standby, or a user or database with default_transaction_read_only",
    DatabaseProblem.DISK_FULL: "its disk is full",
    DatabaseProblem.OUT_OF_MEMORY: "it is out of memory",
    DatabaseProblem.NO_DATABASE: "the server has no such database",
    DatabaseProblem.LOGIN_REFUSED: "the server refused the login",
    DatabaseProblem.NO_CONNECTION_LEFT: "it accepts no more connections",
    DatabaseProblem.POOL_EXHAUSTED: "all connections are in use",
    DatabaseProblem.STARTING: "it is starting, stopping, recovering or being restored",
    DatabaseProblem.CONNECTION_ENDED: "it ended the connection, as at a shutdown",
    DatabaseProblem.CANCELLED: "it cancelled the statement, as at its statement_timeout",
    DatabaseProblem.NO_ANSWER: "a statement got no answer in time",
    DatabaseProblem.LOCKED: "a lock could not be had in time",
    DatabaseProblem.TRANSACTION_ENDED: "it ended the transaction, as after a conflict or a time limit",
    DatabaseProblem.FAILING: "it fails",
}

# A longer state goes before its class.
_BY_SQLSTATE: Mapping[str, DatabaseProblem] = {
    "25006": DatabaseProblem.READ_ONLY,
    "53100": DatabaseProblem.DISK_FULL,
    "53200": DatabaseProblem.OUT_OF_MEMORY,
    "53300": DatabaseProblem.NO_CONNECTION_LEFT,
    "57014": DatabaseProblem.CANCELLED,
    "57P01": DatabaseProblem.CONNECTION_ENDED,
    "57P02": DatabaseProblem.CONNECTION_ENDED,
    "57P03": DatabaseProblem.STARTING,
    "57P04": DatabaseProblem.NO_DATABASE,  # dropped meanwhile
    "55000": DatabaseProblem.STARTING,  # ALTER DATABASE … ALLOW_CONNECTIONS false, as while it is restored
    "55P03": DatabaseProblem.LOCKED,
    "25P03": DatabaseProblem.TRANSACTION_ENDED,
    "25P04": DatabaseProblem.TRANSACTION_ENDED,
    "3D": DatabaseProblem.NO_DATABASE,
    "28": DatabaseProblem.LOGIN_REFUSED,
    "40": DatabaseProblem.TRANSACTION_ENDED,
    "08000": DatabaseProblem.CONNECTION_ENDED,
    "08003": DatabaseProblem.CONNECTION_ENDED,
    "08006": DatabaseProblem.CONNECTION_ENDED,
    "08": DatabaseProblem.FAILING,
    "53": DatabaseProblem.FAILING,
    "57": DatabaseProblem.FAILING,
    "58": DatabaseProblem.FAILING,  # input and output, such as a file that cannot be written
}


class DatabaseUnusable(ServiceUnreachable):
    """The database answers, but cannot be used now."""

    def __init__(
        self, problem: DatabaseProblem, *, sqlstate: str = "", words: str = "", setting: str = DATABASE_URL
    ) -> None:
        fact = f"{FACTS[problem]}: {words}" if words else FACTS[problem]
        super().__init__("database", Cause.SERVICE_UNAVAILABLE, f"{fact} (SQLSTATE {sqlstate})" if sqlstate else fact)
        self.problem = problem
        self.setting = setting
        """The variable with the URL."""

    def __str__(self) -> str:
        return f"the {self.service} cannot be used: {self.detail}"


QUOTED = (DatabaseProblem.NO_DATABASE, DatabaseProblem.LOGIN_REFUSED)
"""Where PostgreSQL's own words help, and quote no data of a guest."""


def problem_of(sqlstate: str) -> DatabaseProblem | None:
    """Return what this SQLSTATE says about the database; `None`: the statement is at fault."""
    return _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE.get(sqlstate[:2])
