"""A session that only ever does its next step comes to an end, whatever the answers are."""

from datetime import timedelta
from itertools import cycle

from hypothesis import example, given
from hypothesis import strategies as st

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    Expire,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
)
from guestledger.engine.domain.lifecycle import (
    AttemptCreation,
    ExpireToken,
    Policy,
    Step,
    SyncWebhook,
    ValidateChannel,
    next_step,
)
from guestledger.engine.domain.outcomes import Channel, Created, CreationOutcome, Delivered, LookupOutcome, Throttled
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import InDoubt, RetryAfter, RetryPolicy
from tests.property.invariants import Life
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    creations,
    deliveries,
    jitters,
    lookup_outcomes,
    policies,
    requests,
    usable_channels,
)

TURN = timedelta(seconds=1)
NOT_NOW = Throttled(status=429, retry_after=RetryAfter(given="0", ms=0, why="Retry-After of 0 ms"))
NO_ANSWER = Delivered(status=None, message="no answer", latency_ms=0)


class Worker:
    """Does what the session needs, when it needs it. Everything it does takes a second."""

    def __init__(self, policy: Policy, request: GuestRequest, jitter: float) -> None:
        self.life = Life(policy)
        self.jitter = jitter
        self.now = START
        self._tell(OpenSession(request=request, now=self.now))

    def do(self, step: Step, lookup: LookupOutcome, creation: CreationOutcome | None, delivery: Delivered) -> None:
        """One step with these answers; without a creation outcome the worker dies before the answer is recorded."""
        self.now = max(self.now, step.not_before)
        now, jitter = self.now, self.jitter
        match step:
            case ValidateChannel():
                self._tell(RecordLookup(outcome=lookup, now=now, jitter=jitter))
            case AttemptCreation():
                (event, *_) = self._tell(BeginAttempt(request_sha256="ab", now=now, jitter=jitter))
                if isinstance(event, e.CreationAttempted) and creation is not None:
                    self._tell(RecordAttempt(attempt=event.attempt, outcome=creation, now=self.now, jitter=jitter))
            case SyncWebhook():
                self._tell(RecordDelivery(outcome=delivery, now=now, jitter=jitter))
            case ExpireToken():
                self._tell(Expire(now=now))

    def _tell(self, command: Command) -> list[e.Event]:
        happened = self.life.take(command)
        assert happened, f"{type(command).__name__} is what the next step asked for, so it must bring the session on"
        self.now += TURN
        return happened


def max_steps(policy: Policy) -> int:
    """Every step takes a second, so the deadline bounds the tries; what comes after the creation is counted."""
    return policy.creation.deadline_ms // 1_000 + 4 + policy.webhook.max_failures + 1


def live(
    *,
    policy: Policy,
    request: GuestRequest,
    lookups: list[LookupOutcome],
    answers: list[CreationOutcome | None],
    calls: list[Delivered],
    jitter: float,
) -> Life:
    """The whole life of a session to which the answers come round and round."""
    worker = Worker(policy, request, jitter)
    rounds = zip(cycle(lookups), cycle(answers), cycle(calls), range(max_steps(policy)), strict=False)
    for lookup, answer, call, _ in rounds:
        step = next_step(worker.life.state, policy)
        if step is None:
            return worker.life
        worker.do(step, lookup, answer, call)
    assert next_step(worker.life.state, policy) is None, "the session does not come to an end"
    return worker.life


@given(
    policy=policies,
    request=requests,
    lookups=st.lists(lookup_outcomes, min_size=1, max_size=5),
    answers=st.lists(st.none() | creation_outcomes, min_size=1, max_size=5),
    calls=st.lists(deliveries, min_size=1, max_size=3),
    jitter=jitters,
)
@example(  # throttled for ever, without ever being told to wait
    policy=Policy(creation=RetryPolicy(deadline_ms=30_000)),
    request=CONSENTING,
    lookups=[USABLE],
    answers=[NOT_NOW],
    calls=[NO_ANSWER],
    jitter=0.0,
)
@example(  # every worker dies
    policy=Policy(),
    request=CONSENTING,
    lookups=[NOT_NOW, USABLE],
    answers=[None],
    calls=[NO_ANSWER],
    jitter=0.0,
)
def test_following_the_due_steps_always_reaches_an_end(
    *,
    policy: Policy,
    request: GuestRequest,
    lookups: list[LookupOutcome],
    answers: list[CreationOutcome | None],
    calls: list[Delivered],
    jitter: float,
) -> None:
    life = live(policy=policy, request=request, lookups=lookups, answers=answers, calls=calls, jitter=jitter)
    ends = {Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED}
    assert life.state.status in ends | ({Status.PARKED} if policy.creation.in_doubt is InDoubt.PARK else set())


@given(
    policy=policies.filter(lambda policy: policy.creation.deadline_ms >= 2_000),
    channel=usable_channels,
    created=creations,
    call=deliveries,
    jitter=jitters,
)
def test_a_session_granted_in_time_is_created_by_the_first_attempt(
    policy: Policy, channel: Channel, created: Created, call: Delivered, jitter: float
) -> None:
    life = live(policy=policy, request=CONSENTING, lookups=[channel], answers=[created], calls=[call], jitter=jitter)
    assert life.state.status is Status.EXPIRED
    assert (life.state.attempts, life.state.session_id) == (1, created.session_id)
    assert (life.state.latency_ms, life.state.created_at) == (3_000, START + 3 * TURN)
