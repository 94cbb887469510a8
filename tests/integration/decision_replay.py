"""A session's decisions taken once more: every event must follow again, from a step that was due."""

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    Defer,
    Expire,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    RequestRedelivery,
)
from guestledger.engine.domain.delivery import DeliveryPolicy
from guestledger.engine.domain.lifecycle import (
    AttemptCreation,
    ExpireToken,
    Policy,
    SyncWebhook,
    ValidateChannel,
    decide,
    next_step,
)
from guestledger.engine.domain.outcomes import Channel, Created, Delivered, Failed, Throttled
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.domain.session import Session, Status, evolve
from guestledger.engine.domain.waiting import max_spread_ms
from guestledger.engine.limits.admission import Denied
from guestledger.engine.limits.retry import RetryAfter, RetryPolicy
from guestledger.engine.log.recorded import RecordedEvent

STEP_OF = {
    RecordLookup: ValidateChannel,
    BeginAttempt: AttemptCreation,
    Defer: AttemptCreation,
    RecordAttempt: AttemptCreation,
    RecordDelivery: SyncWebhook,
    Expire: ExpireToken,
}


def assert_every_decision_is_taken_again(history: Sequence[RecordedEvent], policy: Policy) -> Session:
    """The session at the end, if at every moment today's code decides what was decided then, and was due to."""
    events = [recorded.event for recorded in history]
    state = Session(id=history[0].stream_id)
    left = list(events)
    while left:
        command = _behind(left[1] if _is_overtaken(left) else left[0], state, policy)
        assert _was_due(command, state, policy), (left[0], state)
        decided = decide(state, command, policy)
        assert decided
        assert decided == left[: len(decided)]
        for event in decided:
            state = evolve(state, event)
        left = left[len(decided) :]
    return state


def _is_overtaken(events: Sequence[e.Event]) -> bool:
    """Whether an answer to an older attempt comes first, which puts the current one in doubt."""
    match events:
        case [e.CreationFailed() as first, e.SessionCreated() as second, *_]:
            return first.attempt != second.attempt and first.wait_ms == 0
    return False


def assert_each_attempt_was_committed_before_it_was_sent(history: Sequence[RecordedEvent]) -> None:
    """An attempt ends the append that it came with: its answer, or whatever came of it, is of a later one."""
    for recorded, following in pairwise(history):
        if isinstance(recorded.event, e.CreationAttempted):
            assert following.causation_id != recorded.causation_id


def _was_due(command: Command, state: Session, policy: Policy) -> bool:
    if isinstance(command, OpenSession):
        return state.status is Status.NEW
    if isinstance(command, RequestRedelivery):  # when somebody asks for it, which no step does
        return True
    late = isinstance(command, RecordAttempt) and (
        state.status is not Status.ATTEMPTING or command.attempt != state.attempts
    )
    if late:  # whoever asked did so when it was due
        return isinstance(command.outcome, Created)
    step = next_step(state, policy)
    return type(step) is STEP_OF[type(command)] and step.not_before <= command.now


def _behind(event: e.Event, state: Session, policy: Policy) -> Command:
    """The command that `event` tells of."""
    now = event.at
    match event:
        case e.ConsentRecorded() | e.ConsentRefused():
            return OpenSession(request=_request(event), now=now)
        case e.ChannelValidated() | e.ChannelRejected():
            return RecordLookup(outcome=_channel(event), now=now, jitter=0.0)
        case e.ChannelLookupFailed(kind=None):
            why, _, backoff = event.reason.rpartition(", plus ")
            backoff_ms = int(backoff.partition(" ")[0])
            asked = RetryAfter(given=None, ms=event.wait_ms - backoff_ms, why=why)
            jitter = _jitter(backoff_ms, event.lookup, policy.creation)
            return RecordLookup(outcome=Throttled(status=event.status, retry_after=asked), now=now, jitter=jitter)
        case e.ChannelLookupFailed():
            outcome = Failed(kind=event.kind, status=event.status, message=event.message)
            return RecordLookup(outcome=outcome, now=now, jitter=_jitter(event.wait_ms, event.lookup, policy.creation))
        case e.CreationAttempted():
            return BeginAttempt(request_sha256=event.request_sha256, now=now, jitter=0.0)
        case e.CreationDeferred():
            why, _, spread = event.reason.partition(", plus ")
            spread_ms = int(spread.partition(" ")[0] or 0)
            until = event.retry_at - timedelta(milliseconds=spread_ms)
            held = Denied(by=event.held_by, until=until, reason=why)
            most = max_spread_ms(state, held, policy.creation)
            return Defer(limiter=event.limiter, held=held, now=now, jitter=(spread_ms + 0.5) / most if most else 0.0)
        case e.CreationThrottled():
            why = event.reason.rpartition(", plus ")[0]
            asked = RetryAfter(given=event.retry_after_given, ms=event.retry_after_ms, why=why)
            jitter = _jitter(event.wait_ms - event.retry_after_ms, state.throttles + 1, policy.creation)
            outcome = Throttled(status=event.status, retry_after=asked)
            return RecordAttempt(attempt=event.attempt, outcome=outcome, now=now, jitter=jitter)
        case e.CreationFailed():
            outcome = Failed(kind=event.kind, status=event.status, message=event.message)
            jitter = _jitter(event.wait_ms, state.failures + 1, policy.creation)
            return RecordAttempt(attempt=event.attempt, outcome=outcome, now=now, jitter=jitter)
        case e.SessionCreated():
            outcome = Created(
                session_id=event.session_id,
                guest_token=event.guest_token,
                expires_at=event.expires_at,
                status=event.status,
                latency_ms=event.attempt_latency_ms,
            )
            return RecordAttempt(attempt=event.attempt, outcome=outcome, now=now, jitter=0.0)
        case e.DuplicateCreated():
            outcome = Created(
                session_id=event.session_id, guest_token="", expires_at=now, status="active", latency_ms=0
            )
            return RecordAttempt(attempt=event.attempt, outcome=outcome, now=now, jitter=0.0)
        case e.WebhookSynced():
            called = Delivered(status=event.status, message="", latency_ms=event.latency_ms)
            return RecordDelivery(outcome=called, now=now, jitter=0.0)
        case e.WebhookFailed():
            return _delivery(event, state, policy.webhook)
        case e.WebhookAbandoned():
            called = Delivered(status=event.status, message=event.reason, latency_ms=0)
            return RecordDelivery(outcome=called, now=now, jitter=0.0)
        case e.WebhookRedeliveryRequested():
            return RequestRedelivery(requested_by=event.requested_by, reason=event.reason, now=now)
        case e.TokenExpired():
            return Expire(now=now)
        case _:
            raise AssertionError(f"{type(event).__name__} never comes first in a decision")


def _delivery(event: e.WebhookFailed, state: Session, policy: DeliveryPolicy) -> RecordDelivery:
    asked = None
    if event.retry_after_ms is not None:
        why = event.reason.rpartition(", plus ")[0]
        asked = RetryAfter(given=event.retry_after_given, ms=event.retry_after_ms, why=why)
    called = Delivered(status=event.status, message=event.message, latency_ms=event.latency_ms, retry_after=asked)
    least = max(policy.waits_ms[state.webhook_failures], event.retry_after_ms or 0)
    most = least * policy.jitter_percent / 100
    jitter = (event.wait_ms - least + 0.5) / most if most >= 1 else 0.0
    return RecordDelivery(outcome=called, now=event.at, jitter=jitter)


def _request(event: e.ConsentRecorded | e.ConsentRefused) -> GuestRequest:
    guest = event.guest
    if isinstance(event, e.ConsentRecorded):
        consent = GuestConsent(
            data_processing=True, gdpr_compliant=True, marketing=event.consent.marketing, notice=event.consent.notice
        )
    else:
        given = {name: json.loads(text) for name, text in event.given.items()}
        consent = GuestConsent(
            data_processing=given.get("dataProcessing", True), gdpr_compliant=given.get("gdprCompliant", True)
        )
    return GuestRequest(
        channel_id=event.channel_id,
        ip_address=guest.ip_address,
        user_agent=guest.user_agent,
        timestamp=guest.timestamp,
        source=guest.source,
        campaign=guest.campaign,
        device_type=guest.device_type,
        consent=consent,
        idempotency_key=guest.idempotency_key,
        subject_id=guest.subject_id,
    )


def _channel(event: e.ChannelValidated | e.ChannelRejected) -> Channel | Failed:
    if isinstance(event, e.ChannelValidated):
        status, protocols = event.status, event.protocols
    elif "knows no channel" in event.reason:
        return Failed(kind=e.FailureKind.REJECTED, status=404, message="")
    elif found := re.search(r" is '(\w+)', not 'active'", event.reason):
        status, protocols = found[1], ()
    else:
        status, protocols = "active", ()
    return Channel(
        id=event.channel_id,
        status=status,
        protocols=protocols,
        looked_up_at=event.looked_up_at,
        cached=event.cached,
    )


def _jitter(wait_ms: int | None, tries: int, policy: RetryPolicy) -> float:
    """The chance that led to this wait."""
    ceiling = min(policy.cap_ms, policy.base_ms * 2 ** min(tries - 1, 32))
    return (wait_ms + 0.5) / ceiling if wait_ms is not None and ceiling else 0.0
