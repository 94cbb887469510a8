"""The command line's lines for errors: what was wrong, and what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import guestledger
from guestledger.adapters.forms.messages import cause_sentence, denied_sentence

REDELIVERIES: Mapping[str, str] = {
    "no_webhook": "no webhook is set: set GUESTLEDGER_WEBHOOK_URL",
    "no_session": "it is {status}, and only opened sessions have a notice",
    "in_delivery": "its notice is still being delivered",
    "erased": "its contact data is erased, and the notice needs it",
}
"""By `RedeliveryRefusal`."""

HINTS: Mapping[str, str] = {
    "PartitionDetached": "`guestledger partitions attach {error.partition:%Y-%m}` attaches it again",
    "SessionIdShared": "`guestledger find --session {error.wanted}` shows them",
    "SessionNotFound": "`guestledger sessions` lists them",
    "PartitionRefused": "`guestledger partitions list` shows all partitions",
    "UnknownEvent": "upgrade guestledger here",
    "UnknownPolicy": "upgrade guestledger here",
    "ProjectionStopped": "`guestledger projections list` shows the event",
    "RebuildInterrupted": "`guestledger projections rebuild` continues an unfinished one",
    "CredentialsRefused": "check GUESTLEDGER_CXONE_CLIENT_ID and GUESTLEDGER_CXONE_CLIENT_SECRET",
    "RequestDenied": "`guestledger limits` shows the limiter",
    "LedgerNotReady": "run `guestledger db upgrade`",
    "SubjectErased": "repeat it once the erasure is complete",
    "ErasureNotFound": "`guestledger erase --unfinished` finishes the erasures that were interrupted",
    "ErasuresMissing": "`guestledger erase --replay {error.path}` erases them again",
    "UnderLegalHold": "`guestledger hold --release` ends it",
    "LogSetBack": "`guestledger db restored` lists the consumers and how to set them back",
}
"""What to do about an exception, by the name of its class or of a base class."""

_SERVICES = {
    "database": "check GUESTLEDGER_DATABASE_URL and that the server runs",
    "key vault": "check GUESTLEDGER_VAULT_URL and that the server runs",
    "token endpoint": "check GUESTLEDGER_CXONE_URL",
    "provider": "check GUESTLEDGER_CXONE_URL",
}
LEDGER_HINTS: Mapping[str, str] = {
    "too_new": "upgrade guestledger here",
    "encoding": "create one with ENCODING 'UTF8' TEMPLATE template0",
    "foreign": "log in as its owner, drop it, or choose another schema with GUESTLEDGER_SCHEMA",
}
"""What else to do about a ledger that is not ready, by `LedgerProblem`."""

DATABASE_HINTS: Mapping[str, str] = {
    "read_only": "name the primary in {url} to change anything",
    "disk_full": "make room on the server's disk",
    "out_of_memory": "see the server's log",
    "no_database": "create it, or correct {url}",
    "login_refused": "check user and password in {url}",
    "no_connection_left": "lower GUESTLEDGER_DATABASE_CONNECTIONS, or raise the limit of the user or the server",
    "pool_exhausted": "raise GUESTLEDGER_DATABASE_CONNECTIONS, or return connections sooner",
    "starting": "repeat it when the server accepts connections",
    "connection_ended": "check that the server runs",
    "cancelled": "raise the statement_timeout of the database user",
    "no_answer": "check that the server is not overloaded or stopped",
    "locked": "repeat it; pg_locks shows who holds the lock",
    "transaction_ended": "repeat it",
    "failing": "see the server's log",
}
"""What to do about a database that cannot be used, by `DatabaseProblem`."""

_CAUSE_HINTS = {
    "scope_refused": "check the client's scopes, and `Profile(token_scope=…)`",
    "grant_refused": "check the client's grants, and `Profile(grant=…)`",
}
_OWN_WORDS = ("key vault", "AWS KMS")
"""Services whose refusals say what to do."""
_PARTITION_HINTS = {
    "rebuild_unfinished": "`guestledger projections rebuild {}` finishes it",
    "not_consumed": "`guestledger consumers --forget {}` if the consumer no longer exists",
}
_TEMPORARY = ("throttled", "server_error", "answer_timeout", "too_early", "request_timeout")


def error_line(error: guestledger.GuestledgerError) -> str:
    """Return an exception's text and what to do about it, in one line."""
    text, hint = _text(error), _hint(error)
    # A text that names a setting says what to do already.
    return f"{text}: {hint}" if hint and "GUESTLEDGER_" not in text else text


def _text(error: guestledger.GuestledgerError) -> str:
    match error:
        case guestledger.RequestDenied():
            return f"the {error.service} cannot be used until {error.denied.until:%Y-%m-%dT%H:%M:%SZ}: rate limiter {error.limiter!r}: {denied_sentence(error.denied)}"
        case guestledger.ServiceUnreachable() if error.service == "AWS KMS":
            return str(error)
        case guestledger.ServiceUnreachable():
            known = error.cause == "service_unavailable" and error.detail  # the sentence would say it twice
            return f"the {error.service} cannot be used: {known or cause_sentence(error.cause, error.detail)}"
        case guestledger.CredentialsRefused():
            if error.service in _OWN_WORDS:
                return str(error)
            if error.cause in _CAUSE_HINTS:
                return f"the {error.service} refused the request: {cause_sentence(error.cause, error.detail)}"
            known = error.cause == "unauthorized" and error.detail  # the sentence is about an API's 401
            return f"the {error.service} refused the credentials: {known or cause_sentence(error.cause, error.detail)}"
        case guestledger.RedeliveryRefused():
            why = REDELIVERIES[error.why].format(status=error.status)
            return f"the notice of session {error.stream_id} cannot be sent again: {why}"
        case _:
            return str(error)


def _hint(error: guestledger.GuestledgerError) -> str:
    name = type(error).__name__
    if isinstance(error, guestledger.CredentialsRefused) and error.service in _OWN_WORDS:
        return ""
    # By name: comparing with these classes would import the database's adapter.
    if name == "LedgerNotReady":
        return LEDGER_HINTS.get(str(getattr(error, "problem", "")), HINTS[name])
    if name == "DatabaseUnusable":
        return DATABASE_HINTS[getattr(error, "problem")].format(url=getattr(error, "setting"))  # noqa: B009
    if name == "NotAllowed":
        return _access_hint(error)
    if name == "TooManyPrivileges":
        return _privileges_hint(error)
    if name == "PartitionBlocked":
        return _partition_hint(error)
    if isinstance(error, guestledger.ResolutionRefused) and error.holder is None:
        return "`guestledger sessions --status parked` lists the parked ones"
    if isinstance(error, guestledger.CredentialsRefused) and error.cause in _CAUSE_HINTS:
        return _CAUSE_HINTS[error.cause]
    for kind in type(error).__mro__:
        if kind.__name__ in HINTS:
            return HINTS[kind.__name__].format(error=error)
    if isinstance(error, guestledger.ServiceUnreachable) and error.cause not in _TEMPORARY:
        if (error.service, error.cause) == ("provider", "not_configured"):
            return "set GUESTLEDGER_CXONE_URL and the credentials"
        if error.service == "database" and not os.environ.get("GUESTLEDGER_DATABASE_URL"):
            return "the embedded PostgreSQL is stopped: any `guestledger` command starts it"
        return _SERVICES.get(error.service, "")
    return ""


def _access_hint(error: Any) -> str:
    role = error.role or f"{os.environ.get('GUESTLEDGER_SCHEMA') or 'guestledger'}_runtime"
    if error.access == "change_tables":
        return f"set GUESTLEDGER_MIGRATION_URL to a login of {role}"
    if error.member:
        return "run `guestledger db upgrade` to repair the grants"
    return f"log in as a member of {role}, or run `GRANT {role} TO {error.user or '…'}`"


def _privileges_hint(error: Any) -> str:
    created = "" if error.role_exists else ", which `guestledger db upgrade` creates"
    return (
        f"log in as a member of {error.role}{created}, "
        "or set GUESTLEDGER_ALLOW_OWNER=1: then only triggers protect the log"
    )


def _partition_hint(error: Any) -> str:
    hints = [
        _PARTITION_HINTS[problem].format(detail) for problem, detail in error.problems if problem in _PARTITION_HINTS
    ]
    return "; ".join(hints) or HINTS["PartitionRefused"]
