"""The command line's sentences: what each code of the engine means, and what to do about each error."""

from collections.abc import Mapping
from typing import Any

CAUSES: Mapping[str, str] = {
    "consent_refused": "the guest's consent is not sufficient",
    "channel_unknown": "channel {channel} does not exist",
    "channel_inactive": "channel {channel} is not active",
    "channel_unsupported": "channel {channel} lacks a capability that guest sessions need",
    "throttled": "throttled",
    "rejected": "the request was rejected",
    "unauthorized": "a new access token was refused too",
    "forbidden": "the credentials lack a permission",
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
"""Each `Cause`."""

WAITS: Mapping[str, str] = {
    "backoff": "backoff",
    "retry_after": "Retry-After of {basis}",
    "retry_after_date": "Retry-After until {given}",
    "retry_after_missing": "no Retry-After, so the default of {basis}",
    "retry_after_unreadable": "unreadable Retry-After {given!r}, so the default of {basis}",
    "quota": "the quota is exhausted for {basis}",
    "schedule": "the delivery schedule",
    "limiter": "the rate limiter",
    "none": "no wait",
}
"""Each `WaitBasis`."""

DENIALS: Mapping[str, str] = {
    "closed": "the server asked for a pause",
    "rate": "the admitted rate is used up",
    "circuit_open": "the circuit is open: too many requests in a row failed",
    "retry_budget": "the retry budget is used up",
    "concurrency": "the maximum of calls is in flight",
}
"""Each `DenialReason`."""

BLOCKERS: Mapping[str, str] = {
    "lease": "a worker holds its lease",
    "due": "its next step is not due yet",
    "person": "a person has to decide: `guestledger resolve`",
    "settings": "the settings here differ from the workers'",
}
"""What holds a session in `why`, apart from a limiter."""

STEPS: Mapping[str, str] = {
    "validate_channel": "the channel is looked up",
    "create_session": "the session is requested from the provider",
    "settle_attempt": "the last attempt is recorded as in doubt, because nobody recorded its answer",
    "enforce_deadline": "the session is given up, because its deadline has passed",
    "deliver_webhook": "the webhook is called",
    "expire_token": "the token's expiry is recorded",
}
"""What each step does."""

HINTS: Mapping[str, str] = {
    "SessionNotFound": "`guestledger sessions` lists them",
    "PartitionDetached": "`guestledger partitions attach` brings its month back",
    "PartitionRefused": "`guestledger partitions list` shows the partitions",
    "IdempotencyConflict": "send the same request again, or use a new key",
    "ResolutionRefused": "`guestledger sessions --status parked` lists the parked ones",
    "UnknownEvent": "if a newer release wrote it, upgrade guestledger here",
    "UnknownProjection": "`guestledger projections list` lists them",
    "ProjectionStopped": "`guestledger projections list` shows the event",
    "RebuildInterrupted": "`guestledger projections list` shows rebuilds; `guestledger projections rebuild` continues one",
    "CredentialsRefused": "check GUESTLEDGER_CXONE_CLIENT_ID and GUESTLEDGER_CXONE_CLIENT_SECRET",
    "RequestDenied": "`guestledger limits` shows the limiter",
    "LedgerNotReady": "run `guestledger db upgrade`",
    "TooManyPrivileges": (
        "log in as a member of the runtime role, or set GUESTLEDGER_ALLOW_OWNER=1: then only triggers protect the log"
    ),
}
"""What to do about an exception, by the name of its class or a base class."""

_CHANGE_TABLES = "set GUESTLEDGER_MIGRATION_URL to a login of the owner role"
_LEDGER_TOO_NEW = "upgrade guestledger here"
_SERVICES = {
    "database": "check GUESTLEDGER_DATABASE_URL and that the server runs",
    "token endpoint": "check GUESTLEDGER_CXONE_URL",
    "provider": "check GUESTLEDGER_CXONE_URL",
}


def cause_sentence(cause: str, detail: str = "", status: int | None = None, channel_id: str = "") -> str:
    """Say why something happened. `detail` and the HTTP `status` are evidence."""
    sentence = CAUSES[cause].format(channel=channel_id).replace("  ", " ")
    return sentence + (f": {detail}" if detail else "") + (f" (HTTP {status})" if status is not None else "")


def wait_sentence(wait: Any) -> str:
    """Say how long a `Wait` is and why."""
    reason = WAITS[wait.basis].format(basis=_duration(wait.basis_ms), given=wait.given)
    if wait.basis_ms and wait.extra_ms:
        reason += f", plus {_duration(wait.extra_ms)}"
    return f"waits {_duration(wait.ms)}: {reason}"


def denied_sentence(denied: Any) -> str:
    """Say why a `Denied` request may not be sent now."""
    sentence = DENIALS[denied.by]
    if denied.closed_by is not None:
        sentence += f" ({closed_words(denied.closed_by)})"
    if denied.rate is not None:
        sentence += f" ({denied.rate:.3g} a second)"
    if denied.failures is not None:
        sentence += f" ({denied.failures})"
    if denied.probing:
        sentence += ", and a probe is in flight"
    if denied.in_flight is not None:
        sentence += f" ({denied.in_flight})"
    return sentence


def closed_words(basis: str) -> str:
    """Say what closed a limiter, a `WaitBasis`, in a few words."""
    return {
        "quota": "exhausted quota",
        "retry_after_missing": "429 without Retry-After",
        "retry_after_unreadable": "unreadable Retry-After",
    }.get(basis, "Retry-After" if basis.startswith("retry_after") else basis)


def session_reason(session: Any) -> str | None:
    """Say why a `Session` or `SessionRow` is not active; `None` if it is."""
    return _reason(session, session.channel_id)


def letter_reason(letter: Any) -> str | None:
    """Say why the delivery of a `DeadLetter` failed."""
    return _reason(letter, letter.channel_id)


def error_line(error: Exception) -> str:
    """Return an exception's text and what to do about it, in one line."""
    text, hint = _text(error), _hint(error)
    return f"{text}: {hint}" if hint and "`guestledger " not in text and "GUESTLEDGER_" not in text else text


def _reason(row: Any, channel_id: str) -> str | None:
    if (cause := getattr(row, "cause", None)) is None:
        return getattr(row, "reason", None)
    return cause_sentence(cause, row.detail or "", getattr(row, "status_code", None), channel_id)


def _text(error: Exception) -> str:
    service, cause = getattr(error, "service", None), getattr(error, "cause", None)
    if service is None or cause is None:
        return str(error)
    if (denied := getattr(error, "denied", None)) is not None:
        return f"{service}: {denied_sentence(denied)}, until {denied.until:%Y-%m-%dT%H:%M:%SZ}"
    sentence = cause_sentence(cause, getattr(error, "detail", ""))
    refused = any(kind.__name__ == "CredentialsRefused" for kind in type(error).__mro__)
    return f"{service}: {'the credentials were refused: ' if refused else ''}{sentence}"


def _hint(error: Exception) -> str:
    if getattr(error, "problem", None) == "too_new":
        return _LEDGER_TOO_NEW
    if getattr(error, "access", None) == "change_tables":
        return _CHANGE_TABLES
    for kind in type(error).__mro__:
        if kind.__name__ in HINTS:
            return HINTS[kind.__name__]
    return _SERVICES.get(getattr(error, "service", ""), "")


def _duration(ms: int) -> str:
    return f"{ms} ms" if ms < 1_000 else f"{ms / 1_000:g} s"
