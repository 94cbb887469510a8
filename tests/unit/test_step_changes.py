"""How an append changes the due steps of its session."""

from uuid import UUID

from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, fold
from guestledger.engine.log.appends import Lease, StepChanges
from guestledger.engine.worker.session_work import step_changes
from tests.unit.samples import (
    ACTIVE,
    ATTEMPTING,
    EXPIRY,
    OPEN,
    PARKED,
    REFUSED,
    SESSION,
    START,
    THROTTLED,
    VALIDATED,
    at,
    was_deferred,
    was_synced,
)

POLICY = Policy()
LEASE = Lease(owner=UUID(int=7), ms=10_000)
NEW = Session(id=SESSION)
END = DueStep(StepName.ENFORCE_DEADLINE, at(3_600.001))


def test_a_new_session_brings_all_its_steps() -> None:
    due = (DueStep(StepName.VALIDATE_CHANNEL, START), END)
    assert step_changes(NEW, fold(SESSION, OPEN), POLICY) == StepChanges(due=due)
    assert step_changes(NEW, fold(SESSION, REFUSED), POLICY) == StepChanges()


def test_steps_that_stay_as_they_are_are_not_named() -> None:
    before, after = fold(SESSION, OPEN), fold(SESSION, VALIDATED)
    changes = step_changes(before, after, POLICY)
    assert changes.due == (DueStep(StepName.CREATE_SESSION, START),)
    assert changes.done == {StepName.VALIDATE_CHANNEL}


def test_a_step_at_another_time_is_named() -> None:
    before, after = fold(SESSION, THROTTLED), fold(SESSION, (*THROTTLED, was_deferred(retry_at=at(9))))
    assert step_changes(before, after, POLICY) == StepChanges(due=(DueStep(StepName.CREATE_SESSION, at(9)),))


def test_steps_that_are_no_longer_due_are_done() -> None:
    attempting, active = fold(SESSION, ATTEMPTING), fold(SESSION, ACTIVE)
    changes = step_changes(attempting, active, POLICY)
    assert changes.due == (DueStep(StepName.DELIVER_WEBHOOK, START), DueStep(StepName.EXPIRE_TOKEN, EXPIRY))
    assert changes.done == {StepName.SETTLE_ATTEMPT}
    parked = step_changes(attempting, fold(SESSION, PARKED), POLICY)
    assert parked == StepChanges(done=frozenset({StepName.SETTLE_ATTEMPT}))
    synced = step_changes(active, fold(SESSION, (*ACTIVE, was_synced())), POLICY)
    assert synced == StepChanges(done=frozenset({StepName.DELIVER_WEBHOOK}))


def test_an_owned_step_is_named_with_its_lease_even_if_its_time_stays() -> None:
    state = fold(SESSION, VALIDATED)
    due = (DueStep(StepName.CREATE_SESSION, START),)
    mine = frozenset({StepName.CREATE_SESSION})
    leased = step_changes(state, state, POLICY, mine=mine, lease=LEASE)
    assert leased == StepChanges(due=due, mine=mine, lease=LEASE)
    assert step_changes(state, state, POLICY, mine=mine) == StepChanges(due=due, mine=mine)


def test_a_step_that_is_not_due_cannot_be_owned() -> None:
    before, after = fold(SESSION, VALIDATED), fold(SESSION, ATTEMPTING)
    changes = step_changes(before, after, POLICY, mine=(StepName.CREATE_SESSION, StepName.SETTLE_ATTEMPT), lease=LEASE)
    assert changes.due == (DueStep(StepName.SETTLE_ATTEMPT, START),)
    assert changes.mine == {StepName.SETTLE_ATTEMPT}
    assert changes.done == {StepName.CREATE_SESSION, StepName.ENFORCE_DEADLINE}
