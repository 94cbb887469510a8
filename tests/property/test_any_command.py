"""Any command at any time, in any order, early, late or twice, makes only legal transitions."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
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
from guestledger.engine.domain.outcomes import CreationOutcome, Delivery, LookupOutcome, Resolution
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Status, WebhookNotice
from guestledger.engine.limits.admission import Denied
from tests.property.invariants import Life
from tests.property.moves import DIGEST, ERASURE, LIMITER
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    creations,
    deliveries,
    denials,
    jitters,
    lookup_outcomes,
    patient_policies,
    policies,
    requests,
    resolutions,
)
from tests.unit.samples import HMAC_KEY

WITH_MARKETING = replace(CONSENTING, consent=replace(CONSENTING.consent, marketing=True))


class AnyCommand(RuleBasedStateMachine):
    """Draws commands without regard to what the session needs."""

    life: Life

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    @initialize(policy=policies | patient_policies, number=st.integers(0, 7), outcome=creations | st.none())
    def start_somewhere(self, policy: Policy, number: int, outcome: CreationOutcome | None) -> None:
        self.life = Life(policy)
        first: list[Command] = [
            OpenSession(hmac_key=HMAC_KEY, request=WITH_MARKETING, now=self.now),
            RecordLookup(outcome=USABLE, now=self.now, jitter=0.5),
        ]
        for attempt in range(1, 4):
            first.append(BeginAttempt(request_hmac=DIGEST, now=self.now))
            first.append(SettleAttempt(attempt=attempt, now=self.now, jitter=0.5))
        for command in first[:number]:
            self.life.take(command)
        if outcome is not None:
            self.answer(outcome, 0.5)

    @rule(ms=st.integers(0, 10_000) | st.just(8_000_000))
    def time_passes(self, ms: int) -> None:
        self.now += timedelta(milliseconds=ms)

    @rule(request=requests)
    def open(self, request: GuestRequest) -> None:
        self.life.take(OpenSession(hmac_key=HMAC_KEY, request=request, now=self.now))

    @rule(outcome=lookup_outcomes, jitter=jitters)
    def look_up(self, outcome: LookupOutcome, jitter: float) -> None:
        self.life.take(RecordLookup(outcome=outcome, now=self.now, jitter=jitter))

    @rule()
    def begin(self) -> None:
        self.life.take(BeginAttempt(request_hmac=DIGEST, now=self.now))

    @rule(denied=denials, jitter=jitters)
    def defer(self, denied: Denied, jitter: float) -> None:
        self.life.take(DeferCreation(limiter=LIMITER, denied=denied, now=self.now, jitter=jitter))

    @rule(outcome=creation_outcomes, jitter=jitters)
    def answer(self, outcome: CreationOutcome, jitter: float) -> None:
        attempt = self.life.state.attempts
        self.life.take(RecordAttempt(attempt=attempt, outcome=outcome, now=self.now, jitter=jitter))

    @rule(attempt=st.integers(-1, 6), outcome=creations | creation_outcomes, jitter=jitters)
    def answer_any(self, attempt: int, outcome: CreationOutcome, jitter: float) -> None:
        self.life.take(RecordAttempt(attempt=attempt, outcome=outcome, now=self.now, jitter=jitter))

    @rule(back=st.integers(0, 2), jitter=jitters)
    def settle(self, back: int, jitter: float) -> None:
        attempt, before = self.life.state.attempts - back, self.life.state
        events = self.life.take(SettleAttempt(attempt=attempt, now=self.now, jitter=jitter))
        assert bool(events) == (before.status is Status.ATTEMPTING and not back), "only the current attempt is settled"

    @rule()
    def enforce_deadline(self) -> None:
        self.life.take(EnforceDeadline(now=self.now))

    @rule(outcome=deliveries, jitter=jitters)
    def deliver(self, outcome: Delivery, jitter: float) -> None:
        notice = self.life.state.notice
        self.life.take(RecordDelivery(notice=notice, outcome=outcome, now=self.now, jitter=jitter))

    @rule(outcome=deliveries, jitter=jitters)
    def deliver_the_start_late(self, outcome: Delivery, jitter: float) -> None:
        notice, owed = WebhookNotice.SESSION_STARTED, self.life.state.webhook_owed
        superseded = self.life.state.notice is not notice
        events = self.life.take(RecordDelivery(notice=notice, outcome=outcome, now=self.now, jitter=jitter))
        known = self.life.state.session_id is not None
        assert not superseded or bool(events) == (outcome.accepted and known)
        assert not superseded or self.life.state.webhook_owed == owed, (
            "the receiver still has to know of the withdrawal"
        )

    @rule()
    def withdraw(self) -> None:
        self.withdraw_either(marketing_only=False)

    @rule()
    def withdraw_marketing(self) -> None:
        self.withdraw_either(marketing_only=True)

    def withdraw_either(self, *, marketing_only: bool) -> None:
        before = self.life.state
        wanted = before.consent is not None and (before.consent.marketing or not marketing_only)
        command = WithdrawConsent(marketing_only=marketing_only, requested_by="guest", reason=None, now=self.now)
        events = self.life.take(command)
        assert bool(events) == (wanted and before.status is not Status.WITHDRAWN), (
            "consent can be withdrawn at any time"
        )

    @rule()
    def redeliver(self) -> None:
        self.life.take(RequestRedelivery(requested_by="ops", reason="", now=self.now))

    @rule(resolution=resolutions)
    def resolve(self, resolution: Resolution) -> None:
        was_parked = self.life.state.status is Status.PARKED
        events = self.life.take(Resolve(resolution=resolution, decided_by="ops", reason="", now=self.now))
        assert bool(events) == was_parked, "a person decides about parked sessions only"

    @rule()
    def erase(self) -> None:
        before = self.life.state
        events = self.life.take(EraseGuest(erased_by="ops", reason="", erasure=ERASURE, now=self.now))
        assert bool(events) == (before.status is not Status.NEW and before.erased_at is None), "a guest is erased once"

    @rule()
    def expire(self) -> None:
        due = self.life.state.expires_at
        events = self.life.take(ExpireToken(now=self.now))
        assert not events or (due is not None and self.now >= due)

    @rule(days=st.integers(0, 4))
    def days_pass(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule()
    def purge_token(self) -> None:
        self.life.take(PurgeToken(now=self.now))

    @rule()
    def erase_contact(self) -> None:
        self.life.take(EraseContact(now=self.now))

    @rule()
    def hold(self) -> None:
        self.life.take(PlaceHold(placed_by="counsel", reason="", now=self.now))

    @rule()
    def release(self) -> None:
        self.life.take(ReleaseHold(released_by="counsel", reason="", now=self.now))


TestAnyCommand = AnyCommand.TestCase
