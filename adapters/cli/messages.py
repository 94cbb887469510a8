"""The command line's sentences for the engine's codes and errors."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import guestledger

CAUSES: Mapping[str, str] = {
    "consent_refused": "the guest's consent is not sufficient",
    "channel_unknown": "channel {channel} does not exist",
    "channel_inactive": "channel {channel} is not active",
    "channel_unsupported": "channel {channel} lacks a capability that guest sessions need",
    "throttled": "throttled",
    "rejected": "the request was rejected",
    "unauthorized": "a new access token was refused too",
    "forbidden": "the credentials lack a permission",
    "scope_refused": "the scope that is asked for is not granted",
    "grant_refused": "the client may not use this grant",
    "redirected": "the answer is a redirect, which is not followed",
    "server_error": "server error",
    "too_early": "the server does not accept the request yet",
    "request_timeout": "the server stopped waiting for the request",
    "unreadable_answer": "the answer cannot be read",
    "not_accepted": "the receiver did not accept the notice",
    "no_address": "the host name has no address",
    "invalid_host": "the host is neither a name nor an address",
    "address_refused": "the address is not public",
    "connection_refused": "the connection was refused",
    "connection_timeout": "no connection in time",
    "tls_failed": "the TLS connection failed",
    "answer_timeout": "no answer in time",
    "connection_lost": "the connection was lost",
    "protocol_error": "the answer is not HTTP",
    "lease_lost": "another worker took the session over before the request was sent",
    "not_configured": "it is not set up here",
    "not_ready": "it is not ready",
    "service_unavailable": "a service that the request needs could not be used",
    "token_refused": "the access token was refused",
    "process_ended": "the process ended before the answer was recorded",
    "overtaken": "an older attempt brought the session before this one was answered",
    "rate_limited": "the rate limiter denied the request",
    "too_many_failures": "too many attempts failed",
    "deadline_exceeded": "the deadline has passed",
    "retry_decided": "a person decided to retry",
    "abandonment_decided": "a person decided to abandon it",
    "receiver_gone": "the receiver wants no more notices",
    "wait_too_long": "the receiver asked for a longer wait than the policy allows",
}
"""By `Cause`."""

WAITS: Mapping[str, str] = {
    "backoff": "backoff",
    "retry_after": "Retry-After of {basis}",
    "retry_after_date": "Retry-After until {given}",
    "retry_after_epoch": "Retry-After {given!r}, read as a Unix time",
    "retry_after_capped": "Retry-After {given!r}, cut to {basis}",
    "retry_after_missing": "no Retry-After, so the default of {basis}",
    "retry_after_unreadable": "unreadable Retry-After {given!r}, so the default of {basis}",
    "quota": "the quota is exhausted for {basis}",
    "quota_epoch": "the quota is exhausted until a Unix time, for {basis}",
    "quota_capped": "the quota is exhausted for long, cut to {basis}",
    "schedule": "the delivery schedule",
    "limiter": "the rate limiter",
    "none": "no wait",
}
"""By `WaitBasis`."""

DENIALS: Mapping[str, str] = {
    "closed": "the server asked for a pause",
    "rate": "the admitted rate is used up",
    "circuit_open": "the circuit is open: too many requests in a row failed",
    "retry_budget": "the retry budget is used up",
    "concurrency": "the maximum of calls is in flight",
}
"""By `DenialReason`."""

BLOCKERS: Mapping[str, str] = {
    "lease": "a worker runs it",
    "not_due": "it is not due yet",
    "person": "a person has to decide, with `guestledger resolve`",
    "settings": "it cannot be run with the settings here: use the workers' settings",
}
"""By `BlockedBy`."""

STEPS: Mapping[str, str] = {
    "validate_channel": "the channel is looked up",
    "create_session": "the session is requested from the provider",
    "settle_attempt": "the last attempt is recorded as in doubt, unless its answer is recorded before",
    "enforce_deadline": "the session is given up if it is still not active",
    "deliver_webhook": "the webhook is called",
    "expire_token": "the token's expiry is recorded",
}
"""By `StepName`."""

REDELIVERIES: Mapping[str, str] = {
    "no_webhook": "no webhook is set: set GUESTLEDGER_WEBHOOK_URL",
    "no_session": "it is {status}, and only opened sessions have a notice",
    "in_delivery": "its notice is still being delivered",
}
"""By `RedeliveryRefusal`."""

HINTS: Mapping[str, str] = {
    "PartitionDetached": "`guestledger partitions attach {error.partition:%Y-%m}` attaches it again",
    "SessionNotFound": "`guestledger sessions` lists them",
    "PartitionRefused": "`guestledger partitions list` shows all partitions",
    "UnknownEvent": "upgrade guestledger here",
    "ProjectionStopped": "`guestledger projections list` shows the event",
    "RebuildInterrupted": "`guestledger projections rebuild` continues an unfinished one",
    "CredentialsRefused": "check GUESTLEDGER_CXONE_CLIENT_ID and GUESTLEDGER_CXONE_CLIENT_SECRET",
    "RequestDenied": "`guestledger limits` shows the limiter",
    "LedgerNotReady": "run `guestledger db upgrade`",
}
"""What to do about an exception, by the name of its class or of a base class."""

_SERVICES = {
    "database": "check GUESTLEDGER_DATABASE_URL and that the server runs",
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

_PROFILE_HINTS = {
    "scope_refused": "check the client's scopes, and `Profile(token_scope=…)`",
    "grant_refused": "check the client's grants, and `Profile(grant=…)`",
}
_PARTITION_HINTS = {
    "rebuild_unfinished": "`guestledger projections rebuild {}` finishes it",
    "not_consumed": "`guestledger consumers --forget {}` if the consumer no longer exists",
}
_TEMPORARY = ("throttled", "server_error", "answer_timeout", "too_early", "request_timeout")


def cause_sentence(cause: str, detail: str | None = "", status: int | None = None, channel_id: str = "") -> str:
    """Say why something happened. `detail` and the HTTP `status` are evidence."""
    sentence = CAUSES[cause].format(channel=channel_id)
    return sentence + (f": {detail}" if detail else "") + (f" (HTTP {status})" if status is not None else "")


def wait_sentence(wait: guestledger.Wait) -> str:
    """Say how long a wait is and why."""
    reason = WAITS[wait.basis].format(basis=_duration(wait.basis_ms), given=wait.given)
    if wait.basis_ms and wait.extra_ms:
        reason += f", plus {_duration(wait.extra_ms)}"
    return f"waits {_duration(wait.ms)}: {reason}"


def denied_sentence(denied: guestledger.Denied) -> str:
    """Say why a request may not be sent now."""
    facts = [
        "" if denied.closed_by is None else closed_words(denied.closed_by),
        "" if denied.rate is None else f"{denied.rate:.3g} a second",
        "" if denied.failures is None else f"{denied.failures} failures",
        "a probe is in flight" if denied.probing else "",
        "" if denied.in_flight is None else str(denied.in_flight),
    ]
    known = ", ".join(fact for fact in facts if fact)
    return f"{DENIALS[denied.by]} ({known})" if known else DENIALS[denied.by]


def closed_words(basis: str) -> str:
    """Say what closed a limiter, a `WaitBasis`, in a few words."""
    words = {
        "quota": "exhausted quota",
        "quota_epoch": "exhausted quota until a Unix time",
        "quota_capped": "exhausted quota, cut to the longest pause",
        "retry_after_missing": "no Retry-After",
        "retry_after_epoch": "Retry-After with a Unix time",
        "retry_after_capped": "Retry-After, cut to the longest pause",
    }
    return words.get(basis, "Retry-After" if basis.startswith("retry_after") else basis)


def blocker_sentence(blocker: guestledger.Blocker) -> str:
    """Say what blocks a step."""
    if blocker.denied is not None:
        ahead = f"; {blocker.ahead} sessions are ahead" if blocker.ahead else ""
        return f"rate limiter: {denied_sentence(blocker.denied)}{ahead}"
    parts = [BLOCKERS[blocker.by]]
    if blocker.cause is not None:
        parts.append(cause_sentence(blocker.cause, blocker.detail))
    if blocker.wait is not None:
        parts.append(wait_sentence(blocker.wait))
    return "; ".join(parts)


def session_reason(session: guestledger.Session | guestledger.SessionRow) -> str | None:
    """Say why a session is not active; `None` if it is."""
    if session.cause is None:
        return None
    return cause_sentence(session.cause, session.detail, channel_id=session.channel_id)


def letter_reason(letter: guestledger.DeadLetter) -> str:
    """Say why a delivery failed."""
    return cause_sentence(letter.cause, letter.detail, letter.status)


def error_line(error: guestledger.GuestledgerError) -> str:
    """Return an exception's text and what to do about it, in one line."""
    text, hint = _text(error), _hint(error)
    # A text that names a setting says what to do already.
    return f"{text}: {hint}" if hint and "GUESTLEDGER_" not in text else text


class LogLines(logging.Formatter):
    """One line a record: time (UTC), level, message."""

    def __init__(self) -> None:
        super().__init__("{asctime}.{msecs:03.0f}Z {levelname} guestledger: {message}", "%Y-%m-%dT%H:%M:%S", "{")
        self.converter = time.gmtime


class Sentences(logging.Filter):
    """Replaces exceptions in log records by their lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record's arguments; keep every record."""
        if isinstance(record.args, tuple) and any(isinstance(value, Exception) for value in record.args):
            record.args = tuple(
                error_line(value) if isinstance(value, guestledger.GuestledgerError) else value for value in record.args
            )
        return True


def _text(error: guestledger.GuestledgerError) -> str:
    match error:
        case guestledger.RequestDenied():
            return f"the {error.service} cannot be used until {error.denied.until:%Y-%m-%dT%H:%M:%SZ}: rate limiter {error.limiter!r}: {denied_sentence(error.denied)}"
        case guestledger.ServiceUnreachable():
            known = error.cause == "service_unavailable" and error.detail  # the sentence would say it twice
            return f"the {error.service} cannot be used: {known or cause_sentence(error.cause, error.detail)}"
        case guestledger.CredentialsRefused():
            refused = "request" if error.cause in _PROFILE_HINTS else "credentials"
            known = error.cause == "unauthorized" and error.detail  # the sentence is about an API's 401
            return f"the {error.service} refused the {refused}: {known or cause_sentence(error.cause, error.detail)}"
        case guestledger.RedeliveryRefused():
            why = REDELIVERIES[error.why].format(status=error.status)
            return f"the notice of session {error.stream_id} cannot be sent again: {why}"
        case _:
            return str(error)


def _hint(error: guestledger.GuestledgerError) -> str:
    name = type(error).__name__
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
    if isinstance(error, guestledger.CredentialsRefused) and error.cause in _PROFILE_HINTS:
        return _PROFILE_HINTS[error.cause]
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


def _duration(ms: int) -> str:
    return f"{ms} ms" if ms < 1_000 else f"{ms / 1_000:g} s"
