"""How an append changes the due steps of its session."""

from typing import Any
from uuid import UUID

from guestledger.engine.domain.due import DueStep, StepName, due_steps
from guestledger.engine.domain.evolve import fold
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
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


def changes(before: Session, after: Session, **owned: Any) -> StepChanges:
    erased = after.contact_erased_at is not None
    return step_changes(due_steps(before, POLICY), due_steps(after, POLICY), erased=erased, **owned)


def test_a_new_session_brings_all_its_steps() -> None:
    due = (DueStep(StepName.VALIDATE_CHANNEL, START), END)
    assert changes(NEW, fold(SESSION, OPEN)) == StepChanges(due=due)
    assert changes(NEW, fold(SESSION, REFUSED)) == StepChanges()


def test_steps_that_stay_as_they_are_are_not_named() -> None:
    before, after = fold(SESSION, OPEN), fold(SESSION, VALIDATED)
    found = changes(before, after)
    assert found.due == (DueStep(StepName.CREATE_SESSION, START),)
    assert found.done == {StepName.VALIDATE_CHANNEL}


def test_a_step_at_another_time_is_named() -> None:
    before, after = fold(SESSION, THROTTLED), fold(SESSION, (*THROTTLED, was_deferred(retry_at=at(9))))
    assert changes(before, after) == StepChanges(due=(DueStep(StepName.CREATE_SESSION, at(9)),))


def test_steps_that_are_no_longer_due_are_done() -> None:
    attempting, active = fold(SESSION, ATTEMPTING), fold(SESSION, ACTIVE)
    found = changes(attempting, active)
    assert found.due == (DueStep(StepName.DELIVER_WEBHOOK, START), DueStep(StepName.EXPIRE_TOKEN, EXPIRY))
    assert found.done == {StepName.SETTLE_ATTEMPT}
    parked = changes(attempting, fold(SESSION, PARKED))
    assert parked == StepChanges(done=frozenset({StepName.SETTLE_ATTEMPT}))
    synced = changes(active, fold(SESSION, (*ACTIVE, was_synced())))
    assert synced == StepChanges(done=frozenset({StepName.DELIVER_WEBHOOK}))


def test_an_owned_step_is_named_with_its_lease_even_if_its_time_stays() -> None:
    state = fold(SESSION, VALIDATED)
    due = (DueStep(StepName.CREATE_SESSION, START),)
    mine = frozenset({StepName.CREATE_SESSION})
    leased = changes(state, state, mine=mine, lease=LEASE)
    assert leased == StepChanges(due=due, mine=mine, lease=LEASE)
    assert changes(state, state, mine=mine) == StepChanges(due=due, mine=mine)


def test_a_step_that_is_not_due_cannot_be_owned() -> None:
    before, after = fold(SESSION, VALIDATED), fold(SESSION, ATTEMPTING)
    found = changes(before, after, mine=(StepName.CREATE_SESSION, StepName.SETTLE_ATTEMPT), lease=LEASE)
    assert found.due == (DueStep(StepName.SETTLE_ATTEMPT, START),)
    assert found.mine == {StepName.SETTLE_ATTEMPT}
    assert found.done == {StepName.CREATE_SESSION, StepName.ENFORCE_DEADLINE}
