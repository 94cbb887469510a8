"""The sentences of commands and pages for the engine's codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guestledger.engine.domain.session import Session
    from guestledger.engine.limits.admission import Denied
    from guestledger.engine.limits.retry import Wait
    from guestledger.engine.operations.explain import Explanation
    from guestledger.engine.operations.redeliver import DeadLetter
    from guestledger.engine.projections.audit import AuditEntry
    from guestledger.engine.projections.sessions import SessionRow
    from guestledger.engine.replay.waits import Waited

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
    "key_refused": "its data keys are wrapped under another key",
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
    "session_known": "the answer names a session that is recorded already",
    "overtaken": "an older attempt brought the session before this one was answered",
    "rate_limited": "the rate limiter denied the request",
    "too_many_failures": "too many attempts failed",
    "deadline_exceeded": "the deadline has passed",
    "retry_decided": "a person decided to retry",
    "abandonment_decided": "a person decided to abandon it",
    "guest_erased": "the guest's personal data was erased",
    "consent_withdrawn": "the guest withdrew the consent",
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

LEARNED = ", learned from the API's answers"
"""Where the admitted rate comes from."""

STEPS: Mapping[str, str] = {
    "validate_channel": "the channel is looked up",
    "create_session": "the session is requested from the provider",
    "settle_attempt": "the last attempt is recorded as in doubt, unless its answer is recorded before",
    "enforce_deadline": "the session is given up if it is still not active",
    "deliver_webhook": "the webhook is called",
    "expire_token": "the token's expiry is recorded",
    "purge_token": "the expired token is deleted",
    "erase_contact": "the contact data is erased, because its retention is over",
}
"""By `StepName`."""

ENDINGS: Mapping[str, str] = {
    "done": "nothing more is due",
    "waiting": "the next step is due later, or waits for a worker as it does in the log",
    "person": "a person has to decide, and the log holds no such decision",
    "unanswered": "the log holds no answer to the next request",
}
"""By `Ending`."""

REQUESTS: Mapping[str, str] = {
    "validate_channel": "look-up {number} would be made at {at}",
    "create_session": "attempt {number} would be sent at {at}",
    "settle_attempt": "attempt {number} would be sent at {at}",
    "deliver_webhook": "webhook call {number} would be made at {at} or later",
}
"""Requests of a what-if, by `StepName`."""

ANSWERS: Mapping[str, str] = {
    "RecordLookup": "the answer to look-up {number}",
    "DeferCreation": "the denial by the rate limiter before attempt {number}",
    "RecordAttempt": "the answer to attempt {number}",
    "SettleAttempt": "the lost answer to attempt {number}",
    "RecordDelivery": "the answer to webhook call {number}",
}
"""What a what-if takes from the log, by the kind of the command."""

WAITED: Mapping[str, str] = {
    "due_time": "wait: {reason}",
    "worker": "late: {step} was due, until a worker ran it",
    "look_up": "look-up: {step} was due, until its answer was recorded",
    "answer": "request: {step}, until its answer was recorded",
    "person": "person: until somebody decided",
    "nothing": "idle: nothing was due",
}
"""By `WaitedFor`: a word, and what it means."""


def cause_sentence(cause: str, detail: str | None = "", status: int | None = None, channel_id: str = "") -> str:
    """Say why something happened. `detail` and the HTTP `status` are evidence."""
    sentence = CAUSES[cause].format(channel=channel_id)
    return sentence + (f": {detail}" if detail else "") + (f" (HTTP {status})" if status is not None else "")


def wait_sentence(wait: Wait) -> str:
    """Say how long a wait is and why."""
    return f"waits {_duration(wait.ms)}: {wait_reason(wait)}"


def wait_reason(wait: Wait) -> str:
    """Say why a wait is as long as it is."""
    reason = WAITS[wait.basis].format(basis=_duration(wait.basis_ms), given=wait.given)
    return reason + f", plus {_duration(wait.extra_ms)}" if wait.basis_ms and wait.extra_ms else reason


def waited_sentence(part: Waited) -> str:
    """Say what a session waited for: a word, and what it means."""
    reason = f"{part.step} was not due yet" if part.wait is None else wait_reason(part.wait)
    return WAITED[part.waited_for].format(step=part.step, reason=reason)


def denied_sentence(denied: Denied) -> str:
    """Say why a request may not be sent now."""
    facts = [
        "" if denied.closed_by is None else closed_words(denied.closed_by),
        "" if denied.rate is None else f"{denied.rate:.3g} a second{LEARNED if denied.by == 'rate' else ''}",
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


def session_reason(session: Session | SessionRow | Explanation) -> str | None:
    """Say why a session is not active; `None` if it is."""
    if session.cause is None:
        return None
    return cause_sentence(session.cause, session.detail, channel_id=session.channel_id)


def letter_reason(letter: DeadLetter) -> str:
    """Say why a delivery failed."""
    return cause_sentence(letter.cause, letter.detail, letter.status)


def decision_words(entry: AuditEntry) -> str | None:
    """Say what was decided about a session that needed a person; `None`: it needed none."""
    if entry.parked_at and (entry.decided_at is None or entry.decided_at < entry.parked_at):
        return "parked: nobody has decided"
    if entry.decision is not None:
        return f"{entry.decision} by {entry.decided_by}: {entry.decision_reason}"
    return "was in doubt; none needed" if entry.doubted_at else None


def _duration(ms: int) -> str:
    return f"{ms} ms" if ms < 1_000 else f"{ms / 1_000:g} s"
