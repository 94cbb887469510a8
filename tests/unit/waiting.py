"""Explanations of waiting sessions, for tests."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from guestledger.engine.domain import events as e
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.evolve import fold
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.pace import Pace
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.operations.explain import Case, Explanation, StepExplanation, explain
from guestledger.engine.ports.due_steps import DueRow, WorkStatus
from guestledger.engine.ports.legal_holds import LegalHold
from tests.unit.samples import (
    LIMITER,
    SESSION,
    at,
)

RECEIVER = "hooks.example.com"
LIMITERS: Mapping[StepName, str | None] = {
    StepName.VALIDATE_CHANNEL: LIMITER,
    StepName.CREATE_SESSION: LIMITER,
    StepName.SETTLE_ATTEMPT: None,
    StepName.ENFORCE_DEADLINE: None,
    StepName.DELIVER_WEBHOOK: RECEIVER,
    StepName.EXPIRE_TOKEN: None,
    StepName.PURGE_TOKEN: None,
    StepName.ERASE_CONTACT: None,
}
OWNER = UUID(int=7)
DEADLINE = at(3_600)

CLOSED = LimiterState(
    closed_at=at(0),
    closed_until=at(60),
    closed_by=WaitBasis.RETRY_AFTER,
    next_reservation=at(60),
)
PACED = LimiterState(
    closed_at=at(0),
    closed_until=at(1),
    pace=Pace(rate=1.0, floor=0.1, learned_at=at(1)),
    next_reservation=at(20),
)
BROKEN = LimiterState(failures=10, breaks=1, broken_at=at(0), broken_until=at(30))
SPENT = LimiterState(failures=3, retry_budget=0.0, retry_budget_at=at(10))

SECONDARY = (StepName.ENFORCE_DEADLINE, StepName.EXPIRE_TOKEN, StepName.PURGE_TOKEN, StepName.ERASE_CONTACT)


def waits(
    history: Sequence[e.Event],
    now: datetime,
    *,
    policy: Policy = Policy(),
    planned: Policy | None = None,
    states: dict[str, LimiterState] | None = None,
    limiters: Mapping[StepName, str | None] = LIMITERS,
    in_flight: int = 0,
    stored: bool = True,
    hold: LegalHold | None = None,
    **row: Any,
) -> Explanation:
    """Explain a session whose rows are as its last append left them, under the policy `planned` if it was another one.

    `row` changes the row of its main step.
    """
    state = fold(SESSION, history)
    rows = []
    for due in due_steps(state, planned or policy) if stored else ():
        plain = {"step": due.step, "due_at": due.due_at, "owner": None, "lease_until": None, "ahead": 0}
        rows.append(DueRow(**(plain if due.step in SECONDARY else {**plain, **row})))
    work = WorkStatus(now=now, version=state.version, in_flight=in_flight, rows=tuple(rows))
    return explain(Case(state, policy, work, history, limiters, states or {}, hold))


def main(explanation: Explanation) -> StepExplanation:
    """The step that creates the session or calls its webhook; else the only step."""
    steps = [step for step in explanation.steps if step.step not in SECONDARY] or explanation.steps
    [step] = steps
    return step


def blocked(explanation: Explanation) -> list[tuple[str, datetime | None]]:
    """The conditions of the main step that are not met."""
    return [(condition.name, condition.until) for condition in main(explanation).unmet]
