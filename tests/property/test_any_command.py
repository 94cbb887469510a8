"""Any command at any time, in any order, early, late or twice: no session ever does what the table does not allow."""

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from guestledger.engine.domain.commands import (
    BeginAttempt,
    BeginLookup,
    Command,
    Defer,
    Expire,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    RequestRedelivery,
    Resolve,
)
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.outcomes import CreationOutcome, Delivered, LookupOutcome, Resolution
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.admission import Denied
from tests.property.invariants import Life
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    creations,
    deliveries,
    holds,
    jitters,
    lookup_outcomes,
    patient_policies,
    policies,
    requests,
    resolutions,
)


class AnyCommand(RuleBasedStateMachine):
    """Draws commands with no regard to what the session needs."""

    life: Life

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    @initialize(policy=policies | patient_policies, done=st.integers(0, 7))
    def begin_somewhere(self, policy: Policy, done: int) -> None:
        self.life = Life(policy)
        first: list[Command] = [
            OpenSession(request=CONSENTING, now=self.now),
            RecordLookup(outcome=USABLE, now=self.now, jitter=0.5),
            *[BeginAttempt(request_sha256="ab", now=self.now, jitter=0.5)] * 5,  # every second finds the first lost
        ]
        for command in first[:done]:
            self.life.take(command)

    @rule(ms=st.integers(0, 10_000) | st.just(8_000_000))
    def time_passes(self, ms: int) -> None:
        self.now += timedelta(milliseconds=ms)

    @rule(request=requests)
    def open(self, request: GuestRequest) -> None:
        self.life.take(OpenSession(request=request, now=self.now))

    @rule()
    def begin_look_up(self) -> None:
        self.life.take(BeginLookup(now=self.now))

    @rule(outcome=lookup_outcomes, jitter=jitters)
    def look_up(self, outcome: LookupOutcome, jitter: float) -> None:
        self.life.take(RecordLookup(outcome=outcome, now=self.now, jitter=jitter))

    @rule(jitter=jitters)
    def begin(self, jitter: float) -> None:
        self.life.take(BeginAttempt(request_sha256="ab", now=self.now, jitter=jitter))

    @rule(held=holds, jitter=jitters)
    def hold_back(self, held: Denied, jitter: float) -> None:
        self.life.take(Defer(limiter="api.example.com sessions", held=held, now=self.now, jitter=jitter))

    @rule(outcome=creation_outcomes, jitter=jitters)
    def answer(self, outcome: CreationOutcome, jitter: float) -> None:
        attempt = self.life.state.attempts
        self.life.take(RecordAttempt(attempt=attempt, outcome=outcome, now=self.now, jitter=jitter))

    @rule(attempt=st.integers(-1, 6), outcome=creations | creation_outcomes, jitter=jitters)
    def answer_any(self, attempt: int, outcome: CreationOutcome, jitter: float) -> None:
        self.life.take(RecordAttempt(attempt=attempt, outcome=outcome, now=self.now, jitter=jitter))

    @rule(outcome=deliveries, jitter=jitters)
    def deliver(self, outcome: Delivered, jitter: float) -> None:
        self.life.take(RecordDelivery(outcome=outcome, now=self.now, jitter=jitter))

    @rule()
    def redeliver(self) -> None:
        self.life.take(RequestRedelivery(requested_by="ops", reason="", now=self.now))

    @rule(resolution=resolutions)
    def resolve(self, resolution: Resolution) -> None:
        was_parked = self.life.state.status is Status.PARKED
        told = self.life.take(Resolve(resolution=resolution, decided_by="ops", reason="", now=self.now))
        assert bool(told) == was_parked, "a person decides about parked sessions, and about no others"

    @rule()
    def expire(self) -> None:
        due = self.life.state.expires_at
        events: list[Event] = self.life.take(Expire(now=self.now))
        assert not events or (due is not None and self.now >= due)


TestAnyCommand = AnyCommand.TestCase
