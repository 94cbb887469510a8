"""The decisions of a session made again: each event must follow from a command that was due."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    DeferCreation,
    EnforceDeadline,
    EraseGuest,
    ExpireToken,
    NoteClockSetBack,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    RequestRedelivery,
    Resolve,
    SettleAttempt,
)
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import (
    Adoption,
    Channel,
    Created,
    Delivery,
    Failed,
    FailureKind,
    Throttled,
    Verdict,
)
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.domain.waiting import max_spread_ms
from guestledger.engine.limits.admission import Denied
from guestledger.engine.limits.retry import RetryAfter, RetryPolicy, Wait, WaitBasis
from guestledger.engine.log.personal_fields import personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent

CREATION = {StepName.VALIDATE_CHANNEL, StepName.CREATE_SESSION}
STEPS_OF: Mapping[type, set[StepName]] = {
    RecordLookup: {StepName.VALIDATE_CHANNEL},
    BeginAttempt: {StepName.CREATE_SESSION},
    DeferCreation: CREATION,
    RecordAttempt: {StepName.SETTLE_ATTEMPT},
    SettleAttempt: {StepName.SETTLE_ATTEMPT},
    EnforceDeadline: CREATION | {StepName.ENFORCE_DEADLINE},
    RecordDelivery: {StepName.DELIVER_WEBHOOK},
    ExpireToken: {StepName.EXPIRE_TOKEN},
}
"""The due steps that each command may belong to."""


def assert_every_decision_is_reproduced(history: Sequence[RecordedEvent], policy: Policy) -> Session:
    """Check that today's code makes every recorded decision again, when it was due. Returns the session at the end."""
    return reproduce(history[0].stream_id, [recorded.event for recorded in history], policy)


def reproduce(session_id: UUID, events: Sequence[e.Event], policy: Policy, *, due: bool = True) -> Session:
    """Make every decision behind `events` again. `due`: check that each was due. Returns the session at the end."""
    state, left = Session(id=session_id), list(events)
    while left:
        command = _command_of(_telling(left), state, policy)
        assert not due or _was_due(command, state, policy), (left[0], state)
        decided = decide(state, command, policy)
        assert decided
        assert [_sealed_as(made, event) for made, event in zip(decided, left, strict=False)] == left[: len(decided)]
        state = evolve_all(state, decided)
        left = left[len(decided) :]
    return state


def _telling(events: Sequence[e.Event]) -> e.Event:
    """The event that shows what was decided: the first one, unless others come before it in the same decision."""
    cause = getattr(events[0], "cause", None)
    if isinstance(events[0], e.CreationFailed) and cause is Cause.OVERTAKEN:
        return events[1]
    if cause is Cause.GUEST_ERASED:
        return next(event for event in events if isinstance(event, e.GuestErased))
    return events[0]


def _sealed_as(made: e.Event, event: e.Event) -> e.Event:
    """`made` with the commitments of the recorded event: what the log does not reveal cannot be compared."""
    sealed = {path: value for path, value in personal_values(event).items() if isinstance(value, Sealed)}
    return with_values(made, sealed) if sealed and type(made) is type(event) else made


def assert_each_attempt_was_committed_before_it_was_sent(history: Sequence[RecordedEvent]) -> None:
    """An attempt is the last event of its append: its outcome belongs to a later one."""
    for recorded, following in pairwise(history):
        if isinstance(recorded.event, e.CreationAttempted):
            assert following.causation_id != recorded.causation_id


def _was_due(command: Command, state: Session, policy: Policy) -> bool:
    match command:
        case OpenSession():
            return state.status is Status.NEW
        case EraseGuest():
            return state.erased_at is None
        case Resolve():
            return state.status is Status.PARKED
        case RequestRedelivery():
            return state.session_id is not None
        case NoteClockSetBack():
            return True
        case RecordAttempt(attempt=attempt) if state.status is not Status.ATTEMPTING or attempt != state.attempts:
            return isinstance(command.outcome, Created) or attempt in state.in_doubt  # a late answer
        case _:
            steps = STEPS_OF[type(command)]
            return any(due.step in steps and due.due_at <= command.now for due in due_steps(state, policy))


def _command_of(event: e.Event, state: Session, policy: Policy) -> Command:
    """The command that led to `event`."""
    for command_of in (_opening, _creation, _doubt, _webhook):
        command = command_of(event, state, policy)
        if command is not None:
            return command
    raise AssertionError(f"{type(event).__name__} is never the first event of a decision")


def _opening(event: e.Event, state: Session, policy: Policy) -> Command | None:
    now = event.at
    match event:
        case e.ConsentRecorded() | e.ConsentRefused():
            return OpenSession(request=_request(event), now=now)
        case e.ChannelValidated() | e.ChannelRejected():
            return RecordLookup(outcome=_channel(event), now=now, jitter=0.0)
        case e.ChannelLookupFailed(kind=None, wait=wait):
            assert wait is not None
            throttled = Throttled(status=event.status, retry_after=_throttle(wait))
            return RecordLookup(outcome=throttled, now=now, jitter=_jitter(wait, event.lookup, policy.creation))
        case e.ChannelLookupFailed(kind=kind):
            assert kind is not None
            failed = Failed(
                kind=kind,
                cause=event.cause,
                status=event.status,
                detail=event.detail,
                retry_after=_retry_after(event.wait),
            )
            return RecordLookup(outcome=failed, now=now, jitter=_jitter(event.wait, event.lookup, policy.creation))
        case _:
            return None


def _creation(event: e.Event, state: Session, policy: Policy) -> Command | None:
    now, tries = event.at, state.attempts - state.throttles
    match event:
        case e.CreationAttempted():
            return BeginAttempt(request_sha256=event.request_sha256, now=now)
        case e.CreationDeferred():
            return _deferral(event, state, policy.creation)
        case e.CreationThrottled():
            throttled = Throttled(status=event.status, retry_after=_throttle(event.wait))
            jitter = _jitter(event.wait, state.throttles + 1, policy.creation)
            return RecordAttempt(attempt=event.attempt, outcome=throttled, now=now, jitter=jitter)
        case e.CreationFailed(cause=Cause.PROCESS_ENDED):
            return SettleAttempt(attempt=event.attempt, now=now, jitter=_jitter(event.wait, tries, policy.creation))
        case e.CreationFailed():
            failed = Failed(
                kind=event.kind,
                cause=event.cause,
                status=event.status,
                detail=event.detail,
                session_id=event.session_id,
                retry_after=_retry_after(event.wait),
            )
            jitter = _jitter(event.wait, tries, policy.creation)
            return RecordAttempt(attempt=event.attempt, outcome=failed, now=now, jitter=jitter)
        case e.SessionCreated():
            created = _created(event.session_id, event.guest_token, event.expires_at, event.attempt_latency_ms)
            outcome = replace(created, unread=event.unread)
            return RecordAttempt(attempt=event.attempt, outcome=outcome, now=now, jitter=0.0)
        case e.SessionAbandoned():
            return EnforceDeadline(now=now)
        case e.TokenExpired():
            return ExpireToken(now=now)
        case e.ClockSetBack():
            return NoteClockSetBack(back_ms=event.back_ms, now=now)
        case _:
            return None


def _doubt(event: e.Event, state: Session, policy: Policy) -> Command | None:
    now = event.at
    match event:
        case e.DuplicateCreated():
            unusable = Failed(kind=FailureKind.IN_DOUBT, cause=Cause.UNREADABLE_ANSWER, session_id=event.session_id)
            outcome = _created(event.session_id) if state.status.is_settled else unusable
            return RecordAttempt(attempt=event.attempt, outcome=outcome, now=now, jitter=0.0)
        case e.GuestTokenFound():
            assert state.session_id is not None
            created = _created(state.session_id, event.guest_token)
            return RecordAttempt(attempt=event.attempt, outcome=created, now=now, jitter=0.0)
        case e.DoubtLifted():
            pause_ms = 0 if event.retry_at is None else max(0, (event.retry_at - now) // timedelta(milliseconds=1))
            asked = RetryAfter(given=None, ms=pause_ms, basis=WaitBasis.RETRY_AFTER)
            outcome = (
                Throttled(status=event.status, retry_after=asked)
                if event.kind is None
                else Failed(
                    kind=event.kind, cause=event.cause, status=event.status, detail=event.detail, retry_after=asked
                )
            )
            return RecordAttempt(attempt=event.attempt, outcome=outcome, now=now, jitter=0.0)
        case e.RetryDecided():
            return Resolve(resolution=Verdict.RETRY, decided_by=event.decided_by, reason=event.reason, now=now)
        case e.AbandonmentDecided():
            return Resolve(resolution=Verdict.ABANDON, decided_by=event.decided_by, reason=event.reason, now=now)
        case e.SessionAdopted():
            found = Adoption(session_id=event.session_id, expires_at=event.expires_at, guest_token=event.guest_token)
            return Resolve(resolution=found, decided_by=event.decided_by, reason=event.reason, now=now)
        case _:
            return None


def _webhook(event: e.Event, state: Session, policy: Policy) -> Command | None:
    now = event.at
    match event:
        case e.WebhookSynced():
            accepted = Delivery(accepted=True, status=event.status, latency_ms=event.latency_ms)
            return RecordDelivery(outcome=accepted, now=now, jitter=0.0)
        case e.WebhookFailed(wait=wait):
            asked = _retry_after(wait)
            if wait.basis is WaitBasis.SCHEDULE and wait.given is not None:  # shorter than the schedule
                asked = RetryAfter(given=wait.given, ms=0, basis=WaitBasis.RETRY_AFTER)
            failed = Delivery(
                accepted=False,
                cause=event.cause,
                status=event.status,
                detail=event.detail,
                latency_ms=event.latency_ms,
                retry_after=asked,
            )
            max_extra_ms = wait.basis_ms * policy.webhook.jitter_percent / 100
            return RecordDelivery(outcome=failed, now=now, jitter=_share(wait.extra_ms, max_extra_ms))
        case e.WebhookAbandoned():
            return RecordDelivery(outcome=_abandoned(event), now=now, jitter=0.0)
        case e.GuestErased():
            return EraseGuest(erased_by=event.erased_by, reason=event.reason, erasure=event.erasure, now=now)
        case e.WebhookRedeliveryRequested():
            return RequestRedelivery(requested_by=event.requested_by, reason=event.reason, now=now)
        case _:
            return None


def _abandoned(event: e.WebhookAbandoned) -> Delivery:
    asked = None
    if event.cause is Cause.WAIT_TOO_LONG:
        asked = RetryAfter(given=None, ms=int(event.detail.removesuffix(" ms")), basis=WaitBasis.RETRY_AFTER)
    return Delivery(
        accepted=False,
        gone=event.cause is Cause.RECEIVER_GONE,
        cause=event.cause,
        status=event.status,
        detail=event.detail,
        latency_ms=0,
        retry_after=asked,
    )


def _deferral(event: e.CreationDeferred, state: Session, policy: RetryPolicy) -> DeferCreation:
    spread_ms = event.wait.extra_ms
    until = event.retry_at - timedelta(milliseconds=spread_ms)
    denied = Denied(by=event.denied_by, until=until, closed_by=event.closed_by)
    jitter = _share(spread_ms, max_spread_ms(state, denied, policy))
    return DeferCreation(limiter=event.limiter, denied=denied, now=event.at, jitter=jitter)


def _created(
    session_id: str, guest_token: str = "", expires_at: datetime | None = None, latency_ms: int = 0
) -> Created:
    return Created(
        session_id=session_id,
        guest_token=guest_token,
        expires_at=expires_at,
        status="active",
        latency_ms=latency_ms,
    )


def _request(event: e.ConsentRecorded | e.ConsentRefused) -> GuestRequest:
    guest = event.guest
    if isinstance(event, e.ConsentRecorded):
        consent = GuestConsent(
            data_processing=True, gdpr_compliant=True, marketing=event.consent.marketing, notice=event.consent.notice
        )
    else:
        given = {name: json.loads(text) for name, text in event.given.items()}
        consent = GuestConsent(
            data_processing=given.get("dataProcessing", True),
            gdpr_compliant=given.get("gdprCompliant", True),
            marketing=event.marketing,
            notice=event.notice,
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


def _channel(event: e.ChannelValidated | e.ChannelRejected) -> Channel:
    rejected = event if isinstance(event, e.ChannelRejected) else None
    validated = event if isinstance(event, e.ChannelValidated) else None
    return Channel(
        id=event.channel_id,
        problem=rejected.cause if rejected else None,
        detail=rejected.detail if rejected else "",
        status=validated.status if validated else "",
        protocols=validated.protocols if validated else (),
        looked_up_at=event.looked_up_at,
        cached=event.cached,
    )


def _throttle(wait: Wait) -> RetryAfter:
    return RetryAfter(given=wait.given, ms=wait.basis_ms, basis=wait.basis)


def _retry_after(wait: Wait | None) -> RetryAfter | None:
    """What the server asked for; `None`: nothing, or less than the schedule of the webhook."""
    if wait is None or wait.basis in {WaitBasis.BACKOFF, WaitBasis.SCHEDULE}:
        return None
    return _throttle(wait)


def _jitter(wait: Wait | None, tries: int, policy: RetryPolicy) -> float:
    """The jitter that gives this backoff."""
    ceiling = min(policy.cap_ms, policy.base_ms * 2 ** min(tries - 1, 32))
    return 0.0 if wait is None else _share(wait.extra_ms, ceiling)


def _share(part: int, whole: float) -> float:
    return (part + 0.5) / whole if whole >= 1 else 0.0
