"""What a step of the database's clock means for one session."""

from datetime import timedelta

import pytest

from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.evolve import evolve_all, fold
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy, deadline_of
from guestledger.engine.domain.session import Session, Status
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    EXPIRY,
    IN_DOUBT,
    OPEN,
    PARKED,
    REFUSED,
    REJECTED,
    SESSION,
    START,
    THROTTLED,
    answer,
    at,
    created,
    enforce,
    expire,
    note_step,
)

HOUR = timedelta(hours=1)
HOUR_MS = 3_600_000
POLICY = Policy()


def stepped(history: tuple, by_ms: int) -> Session:
    state = fold(SESSION, history)
    return evolve_all(state, decide(state, note_step(by_ms), POLICY))


@pytest.mark.parametrize("history", [OPEN, ATTEMPTING, THROTTLED, IN_DOUBT], ids=len)
def test_a_step_ahead_moves_the_deadline_and_ends_no_session(history: tuple) -> None:
    state = stepped(history, 2 * HOUR_MS)

    assert deadline_of(state, POLICY.creation) == START + 3 * HOUR
    assert decide(state, enforce(START + 2.5 * HOUR), POLICY) == []


def test_a_step_ahead_leaves_waits_as_they_are() -> None:
    assert stepped(THROTTLED, HOUR_MS).retry_at == fold(SESSION, THROTTLED).retry_at


@pytest.mark.parametrize("history", [OPEN, ATTEMPTING, THROTTLED, IN_DOUBT], ids=len)
def test_a_step_back_shortens_waits_and_keeps_the_deadline(history: tuple) -> None:
    before = fold(SESSION, history)

    after = stepped(history, -HOUR_MS)

    assert after.due_since == before.due_since - HOUR
    assert after.deadline_from == before.deadline_from


def test_a_step_back_shortens_the_wait_of_a_webhook() -> None:
    due = {step.step: step.due_at for step in due_steps(stepped(ACTIVE, -HOUR_MS), POLICY)}

    assert due == {StepName.DELIVER_WEBHOOK: START - HOUR, StepName.EXPIRE_TOKEN: EXPIRY}


def test_a_step_ahead_delays_the_notice_of_an_expiry_until_it_is_undone() -> None:
    state = stepped(ACTIVE, HOUR_MS)
    assert decide(state, expire(EXPIRY), POLICY) == []
    assert decide(state, expire(EXPIRY + HOUR), POLICY)

    undone = evolve_all(state, decide(state, note_step(-HOUR_MS), POLICY))

    assert undone.expiry_due == EXPIRY
    assert decide(undone, expire(EXPIRY), POLICY)


@pytest.mark.parametrize("history", [REFUSED, REJECTED, ABANDONED, PARKED, EXPIRED], ids=len)
def test_a_step_is_not_recorded_where_it_changes_nothing(history: tuple) -> None:
    state = fold(SESSION, history)
    assert decide(state, note_step(HOUR_MS), POLICY) == []


def test_a_step_is_no_part_of_the_latency() -> None:
    state = stepped(ATTEMPTING, HOUR_MS)

    [event] = decide(state, answer(created(), now=at(2) + HOUR), POLICY)

    assert (event.latency_ms, evolve_all(state, [event]).status) == (2_000, Status.ACTIVE)
