"""Any command at any time, in any order, early, late or twice, makes only legal transitions."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    DeferCreation,
    EnforceDeadline,
    EraseGuest,
    ExpireToken,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    RequestRedelivery,
    Resolve,
    SettleAttempt,
)
from guestledger.engine.domain.outcomes import CreationOutcome, Delivery, LookupOutcome, Resolution
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Status
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


class AnyCommand(RuleBasedStateMachine):
    """Draws commands without regard to what the session needs."""

    life: Life

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    @initialize(policy=policies | patient_policies, number=st.integers(0, 7))
    def start_somewhere(self, policy: Policy, number: int) -> None:
        self.life = Life(policy)
        first: list[Command] = [
            OpenSession(request=CONSENTING, now=self.now),
            RecordLookup(outcome=USABLE, now=self.now, jitter=0.5),
        ]
        for attempt in range(1, 4):
            first.append(BeginAttempt(request_sha256=DIGEST, now=self.now))
            first.append(SettleAttempt(attempt=attempt, now=self.now, jitter=0.5))
        for command in first[:number]:
            self.life.take(command)

    @rule(ms=st.integers(0, 10_000) | st.just(8_000_000))
    def time_passes(self, ms: int) -> None:
        self.now += timedelta(milliseconds=ms)

    @rule(request=requests)
    def open(self, request: GuestRequest) -> None:
        self.life.take(OpenSession(request=request, now=self.now))

    @rule(outcome=lookup_outcomes, jitter=jitters)
    def look_up(self, outcome: LookupOutcome, jitter: float) -> None:
        self.life.take(RecordLookup(outcome=outcome, now=self.now, jitter=jitter))

    @rule()
    def begin(self) -> None:
        self.life.take(BeginAttempt(request_sha256=DIGEST, now=self.now))

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
        self.life.take(RecordDelivery(outcome=outcome, now=self.now, jitter=jitter))

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


TestAnyCommand = AnyCommand.TestCase
