"""The due steps: each one makes progress, nothing else does, and a session that only runs them reaches an end."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import cycle
from uuid import UUID

from hypothesis import example, given, strategies as st

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import Command, DeferCreation, OpenSession, RecordAttempt
from guestledger.engine.domain.due import DueStep, StepName, due_steps
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import Channel, Created, CreationOutcome, Delivery, LookupOutcome, Throttled
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.admission import Denied
from guestledger.engine.limits.retry import InDoubt, RetryAfter, RetryPolicy, WaitBasis
from guestledger.engine.log.appends import Lease
from guestledger.engine.worker.session_work import step_changes
from tests.property.invariants import SESSION, Life
from tests.property.moves import LIMITER, Move, command_of, histories, moves, starts
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    deliveries,
    denials,
    expiring_creations,
    jitters,
    lookup_outcomes,
    patient_policies,
    policies,
    requests,
    usable_channels,
)
from tests.property.table import Table
from tests.unit.samples import HMAC_KEY

TURN = timedelta(seconds=1)
MS = timedelta(milliseconds=1)
THROTTLED = Throttled(status=429, retry_after=RetryAfter(given="0", ms=0, basis=WaitBasis.RETRY_AFTER))
NO_ANSWER = Delivery(accepted=False, latency_ms=0)
OWNERS = (UUID(int=1), UUID(int=2))
any_policies = policies | patient_policies
later = st.just(timedelta(0)) | st.timedeltas(timedelta(0), timedelta(hours=3))
sooner = st.just(MS) | st.timedeltas(MS, timedelta(hours=3))


def lived(history: Sequence[Move], policy: Policy) -> Session:
    """The session after these moves."""
    state = Session(id=SESSION)
    for move in history:
        state = evolve_all(state, decide(state, move(state), policy))
    return state


def due_times(state: Session, policy: Policy) -> dict[StepName, datetime]:
    return {due.step: due.due_at for due in due_steps(state, policy)}


@given(policy=any_policies, history=histories, late=later, lookup=lookup_outcomes, delivery=deliveries, jitter=jitters)
def test_running_a_due_step_makes_progress_and_leaves_the_other_steps(
    *,
    policy: Policy,
    history: Sequence[Move],
    late: timedelta,
    lookup: LookupOutcome,
    delivery: Delivery,
    jitter: float,
) -> None:
    state = lived(history, policy)
    before = due_times(state, policy)
    for step, due_at in before.items():
        now = due_at + late
        events = decide(state, command_of(step, state, now, lookup=lookup, delivery=delivery, jitter=jitter), policy)
        assert events, f"{step} is due"
        after = evolve_all(state, events)
        then = due_times(after, policy)
        assert step not in then or then[step] >= now, "it is not due again at once"
        if after.status is state.status or step in {StepName.DELIVER_WEBHOOK, StepName.EXPIRE_TOKEN}:
            unaffected = before.keys() - {step, StepName.CREATE_SESSION}
            if step is StepName.ERASE_CONTACT:  # the token goes with the contact data
                unaffected -= {StepName.PURGE_TOKEN}
            assert {other: then[other] for other in unaffected} == {other: before[other] for other in unaffected}


@given(
    policy=any_policies,
    history=histories,
    now=st.datetimes(datetime(2024, 1, 1), datetime(2025, 1, 1)),  # noqa: DTZ001 - a zone is added
    lookup=lookup_outcomes,
    delivery=deliveries,
    denied=denials,
)
def test_a_step_that_is_not_due_decides_nothing(
    *,
    policy: Policy,
    history: Sequence[Move],
    now: datetime,
    lookup: LookupOutcome,
    delivery: Delivery,
    denied: Denied,
) -> None:
    state, now = lived(history, policy), now.replace(tzinfo=START.tzinfo)
    due = due_times(state, policy)
    for step in set(StepName) - due.keys():
        if step is StepName.DELIVER_WEBHOOK and state.webhook_erased:
            continue  # what came of a call that the erasure overtook is recorded
        assert decide(state, command_of(step, state, now, lookup=lookup, delivery=delivery), policy) == []
    if not due.keys() & {StepName.VALIDATE_CHANNEL, StepName.CREATE_SESSION}:
        assert decide(state, DeferCreation(limiter=LIMITER, denied=denied, now=now, jitter=0.5), policy) == []


@given(policy=any_policies, history=histories, early=sooner)
def test_deadline_expiry_and_erasure_decide_nothing_before_their_time(
    policy: Policy, history: Sequence[Move], early: timedelta
) -> None:
    state = lived(history, policy)
    due = due_times(state, policy)
    for step in due.keys() & {StepName.ENFORCE_DEADLINE, StepName.EXPIRE_TOKEN, StepName.ERASE_CONTACT}:
        assert decide(state, command_of(step, state, due[step] - early), policy) == []


appends = st.tuples(
    st.lists(moves, max_size=3),
    st.sets(st.sampled_from(StepName)),
    st.none() | st.sampled_from(OWNERS).map(lambda owner: Lease(owner=owner, ms=1_000)),
)


@given(policy=any_policies, start=starts, rest=st.lists(appends, max_size=12))
def test_step_changes_keep_the_table_equal_to_the_due_steps(
    policy: Policy, start: list[Move], rest: list[tuple[list[Move], set[StepName], Lease | None]]
) -> None:
    table, recorded = Table(), Session(id=SESSION)
    for group, mine, lease in [(start, set[StepName](), None), *rest]:
        state, owners = recorded, {step: row.owner for step, row in table.of(SESSION).items()}
        for move in group:
            state = evolve_all(state, decide(state, move(state), policy))
        table.apply(
            SESSION,
            step_changes(
                due_steps(recorded, policy),
                due_steps(state, policy),
                mine=mine,
                lease=lease,
                erased=state.contact_erased_at is not None,
            ),
            START,
        )
        recorded = state
        rows = table.of(SESSION)
        assert {step: row.due_at for step, row in rows.items()} == due_times(state, policy)
        for step, row in rows.items():
            taken = lease.owner if lease else None
            assert row.owner == (taken if step in mine else owners.get(step)), "a lease changes only in `mine`"


class Worker:
    """Runs the due steps when they are due. Each one takes a second."""

    def __init__(self, policy: Policy, request: GuestRequest, jitter: float) -> None:
        self.life = Life(policy)
        self.jitter = jitter
        self.now = START
        self._take(OpenSession(hmac_key=HMAC_KEY, request=request, now=self.now))

    def next_step(self, pick: int) -> DueStep | None:
        """One of the steps that are due next; time passes until then."""
        due = due_steps(self.life.state, self.life.policy)
        if not due:
            return None
        self.now = max(self.now, min(step.due_at for step in due))
        ready = [step for step in due if step.due_at <= self.now]
        return ready[pick % len(ready)]

    def run(self, step: StepName, lookup: LookupOutcome, creation: CreationOutcome | None, delivery: Delivery) -> None:
        """Run the step with these outcomes. Without `creation` the worker ends before the answer is recorded."""
        jitter = self.jitter
        command = command_of(step, self.life.state, self.now, lookup=lookup, delivery=delivery, jitter=jitter)
        event, *_ = self._take(command)
        if isinstance(event, e.CreationAttempted) and creation is not None:
            self._take(RecordAttempt(attempt=event.attempt, outcome=creation, now=self.now, jitter=jitter))

    def _take(self, command: Command) -> list[e.Event]:
        events = self.life.take(command)
        assert events, f"{type(command).__name__} belongs to a due step, so it moves the session on"
        self.now += TURN
        return events


def max_steps(policy: Policy) -> int:
    """Each step takes a second, so the deadline bounds the attempts. Calls of the webhook are counted."""
    return policy.creation.deadline_ms // 1_000 + 5 + policy.webhook.max_failures + 1


def live(
    *,
    policy: Policy,
    request: GuestRequest,
    lookups: list[LookupOutcome],
    answers: list[CreationOutcome | None],
    calls: list[Delivery],
    picks: list[int],
    jitter: float,
) -> Life:
    """The whole life of a session, with these outcomes in turn."""
    worker = Worker(policy, request, jitter)
    rounds = zip(cycle(lookups), cycle(answers), cycle(calls), cycle(picks), range(max_steps(policy)), strict=False)
    for lookup, answer, call, pick, _ in rounds:
        due = worker.next_step(pick)
        if due is None:
            return worker.life
        worker.run(due.step, lookup, answer, call)
    assert not due_steps(worker.life.state, policy), "the session reaches no end"
    return worker.life


@given(
    policy=policies,
    request=requests,
    lookups=st.lists(lookup_outcomes, min_size=1, max_size=5),
    answers=st.lists(st.none() | creation_outcomes, min_size=1, max_size=5),
    calls=st.lists(deliveries, min_size=1, max_size=3),
    picks=st.lists(st.integers(0, 2), min_size=1, max_size=3),
    jitter=jitters,
)
@example(  # always throttled, with a wait of 0
    policy=Policy(creation=RetryPolicy(deadline_ms=30_000)),
    request=CONSENTING,
    lookups=[USABLE],
    answers=[THROTTLED],
    calls=[NO_ANSWER],
    picks=[0],
    jitter=0.0,
)
@example(  # every worker ends before the answer
    policy=Policy(),
    request=CONSENTING,
    lookups=[THROTTLED, USABLE],
    answers=[None],
    calls=[NO_ANSWER],
    picks=[0],
    jitter=0.0,
)
def test_following_the_due_steps_always_reaches_an_end(
    *,
    policy: Policy,
    request: GuestRequest,
    lookups: list[LookupOutcome],
    answers: list[CreationOutcome | None],
    calls: list[Delivery],
    picks: list[int],
    jitter: float,
) -> None:
    life = live(
        policy=policy, request=request, lookups=lookups, answers=answers, calls=calls, picks=picks, jitter=jitter
    )
    ends = {Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED}
    if policy.creation.in_doubt is InDoubt.PARK:
        ends.add(Status.PARKED)
    if life.state.expires_at is None:
        ends.add(Status.ACTIVE)
    assert life.state.status in ends
    assert not life.state.webhook_owed


@given(
    policy=policies.filter(lambda policy: policy.creation.deadline_ms >= 2_000),
    channel=usable_channels,
    created=expiring_creations,
    call=deliveries,
    jitter=jitters,
)
def test_a_session_granted_in_time_is_created_by_the_first_attempt(
    policy: Policy, channel: Channel, created: Created, call: Delivery, jitter: float
) -> None:
    life = live(
        policy=policy,
        request=CONSENTING,
        lookups=[channel],
        answers=[created],
        calls=[call],
        picks=[0],
        jitter=jitter,
    )
    assert life.state.status is Status.EXPIRED
    assert (life.state.attempts, life.state.session_id) == (1, created.session_id)
    assert (life.state.latency_ms, life.state.created_at) == (3_000, START + 3 * TURN)
