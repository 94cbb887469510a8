"""Commands for a session in any state, drawn by Hypothesis."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    DeferCreation,
    EnforceDeadline,
    EraseContact,
    EraseGuest,
    ExpireToken,
    OpenSession,
    PlaceHold,
    PurgeToken,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    ReleaseHold,
    RequestRedelivery,
    Resolve,
    SettleAttempt,
    WithdrawConsent,
)
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import Created, CreationOutcome, Delivery, LookupOutcome
from guestledger.engine.domain.session import Session, Status, WebhookNotice
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    creations,
    deliveries,
    denials,
    guest_consents,
    jitters,
    lookup_outcomes,
    resolutions,
    throttles,
)
from tests.unit.samples import HMAC_KEY

LIMITER = "api.example.com sessions"
DIGEST = "ab" * 32
ERASURE = UUID("018f96c2-7a60-7000-8000-0000000000e1")

Move = Callable[[Session], Command]
"""Chooses a command for the session's state."""

times = st.integers(0, 90).map(lambda seconds: START + timedelta(seconds=seconds))
late_times = st.integers(0, 8_000).map(lambda seconds: START + timedelta(seconds=seconds))


def command_of(
    step: StepName,
    state: Session,
    now: datetime,
    *,
    lookup: LookupOutcome = USABLE,
    delivery: Delivery | None = None,
    jitter: float = 0.5,
) -> Command:
    """The command that the handler of `step` decides, with these outcomes."""
    match step:
        case StepName.VALIDATE_CHANNEL:
            return RecordLookup(outcome=lookup, now=now, jitter=jitter)
        case StepName.CREATE_SESSION:
            return BeginAttempt(request_hmac=DIGEST, now=now)
        case StepName.SETTLE_ATTEMPT:
            return SettleAttempt(attempt=state.attempts, now=now, jitter=jitter)
        case StepName.ENFORCE_DEADLINE:
            return EnforceDeadline(now=now)
        case StepName.DELIVER_WEBHOOK:
            outcome = delivery or Delivery(accepted=True, latency_ms=0)
            return RecordDelivery(notice=state.notice, outcome=outcome, now=now, jitter=jitter)
        case StepName.EXPIRE_TOKEN:
            return ExpireToken(now=now)
        case StepName.PURGE_TOKEN:
            return PurgeToken(now=now)
        case StepName.ERASE_CONTACT:
            return EraseContact(now=now)


def in_turn(lookup: LookupOutcome, creation: CreationOutcome, delivery: Delivery, jitter: float, now: datetime) -> Move:
    """The command that moves the session on, with these outcomes."""

    def command(state: Session) -> Command:
        match state.status:
            case Status.NEW:
                return OpenSession(hmac_key=HMAC_KEY, request=CONSENTING, now=now)
            case Status.PENDING if not state.channel_validated:
                return RecordLookup(outcome=lookup, now=now, jitter=jitter)
            case Status.PENDING | Status.THROTTLED | Status.IN_DOUBT:
                return BeginAttempt(request_hmac=DIGEST, now=now)
            case Status.ATTEMPTING:
                return RecordAttempt(attempt=state.attempts, outcome=creation, now=now, jitter=jitter)
            case Status.ACTIVE if not state.webhook_owed:
                return ExpireToken(now=now + timedelta(seconds=7_200))
            case _:
                return RecordDelivery(notice=state.notice, outcome=delivery, now=now, jitter=jitter)

    return command


def settle(jitter: float, now: datetime) -> Move:
    """The sender of the current attempt is gone."""
    return lambda state: SettleAttempt(attempt=state.attempts, now=now, jitter=jitter)


def fixed(command: Command) -> Move:
    """This command in every state."""
    return lambda _: command


moves_in_turn: SearchStrategy[Move] = st.builds(
    in_turn, lookup_outcomes, creations | creations | creation_outcomes, deliveries, jitters, times
)
settlements: SearchStrategy[Move] = st.builds(settle, jitters, times)
late_answers: SearchStrategy[Move] = st.builds(
    RecordAttempt,
    attempt=st.integers(0, 4),
    outcome=creations | throttles | creation_outcomes,
    now=times,
    jitter=jitters,
).map(fixed)
expiries: SearchStrategy[Move] = st.builds(ExpireToken, now=late_times).map(fixed)
decisions: SearchStrategy[Move] = st.builds(
    Resolve, resolution=resolutions, decided_by=st.just("ops"), reason=st.just(""), now=times
).map(fixed)
withdrawals: SearchStrategy[Move] = st.builds(
    WithdrawConsent, marketing_only=st.booleans(), requested_by=st.just("guest"), reason=st.none(), now=times
).map(fixed)
others: SearchStrategy[Move] = st.one_of(
    st.builds(EraseGuest, erased_by=st.just("ops"), reason=st.just(""), erasure=st.just(ERASURE), now=times),
    st.builds(RecordLookup, outcome=lookup_outcomes, now=times, jitter=jitters),
    st.builds(DeferCreation, limiter=st.just(LIMITER), denied=denials, now=times, jitter=jitters),
    st.builds(EnforceDeadline, now=times | late_times),
    st.builds(RecordDelivery, notice=st.sampled_from(WebhookNotice), outcome=deliveries, now=times, jitter=jitters),
    st.builds(RequestRedelivery, requested_by=st.just("ops"), reason=st.just(""), now=times),
).map(fixed)

moves: SearchStrategy[Move] = st.one_of(
    *[moves_in_turn] * 4, settlements, late_answers, decisions, st.one_of(expiries, others, withdrawals)
)

_FLAWLESS = in_turn(
    USABLE,
    Created(
        session_id="sess_1", guest_token="gt_1", expires_at=START + timedelta(hours=1), status="active", latency_ms=1
    ),
    Delivery(accepted=True, latency_ms=0),
    0.5,
    START,
)
_flawless: SearchStrategy[list[Move]] = st.integers(0, 6).map(lambda number: [_FLAWLESS] * number)
_requests: SearchStrategy[list[Move]] = guest_consents.map(
    lambda consent: [fixed(OpenSession(hmac_key=HMAC_KEY, request=replace(CONSENTING, consent=consent), now=START))]
)
starts: SearchStrategy[list[Move]] = st.one_of(*[_flawless] * 4, _requests)
"""The first moves of a session without trouble: up to its expiry. Or a request with any consent."""
histories: SearchStrategy[Sequence[Move]] = st.builds(list.__add__, starts, st.lists(moves, max_size=12))
holds: SearchStrategy[Move] = (
    st.builds(PlaceHold, placed_by=st.just("counsel"), reason=st.just(""), now=times)
    | st.builds(ReleaseHold, released_by=st.just("counsel"), reason=st.just(""), now=times)
).map(fixed)
erasures: SearchStrategy[Move] = st.builds(PurgeToken, now=late_times).map(fixed) | st.builds(
    EraseContact, now=st.integers(0, 4).map(lambda days: START + timedelta(days=days))
).map(fixed)
