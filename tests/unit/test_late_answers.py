"""Answers that come late, twice or to no attempt: every remote session is recorded, and nothing is counted twice."""

import pytest
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import CreationOutcome, Failed, FailureKind, Throttled
from guestledger.engine.domain.session import Status
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    FAILED,
    IN_DOUBT,
    OPEN,
    PARKED,
    REFUSED,
    THROTTLED,
    VALIDATED,
    answer,
    at,
    created,
    failed,
    has_failed,
    retry_decided,
    throttled,
    was_attempted,
    was_created,
    was_duplicated,
    was_throttled,
)

SECOND_ATTEMPT = (*IN_DOUBT, was_attempted(2))
STILL_WAITING: dict[str, tuple[e.Event, ...]] = {
    "in_doubt": IN_DOUBT,
    "attempting": SECOND_ATTEMPT,
    "throttled": (*SECOND_ATTEMPT, was_throttled(2)),
    "pending": (*SECOND_ATTEMPT, has_failed(2)),
}
SETTLED: dict[str, tuple[e.Event, ...]] = {
    "active": (*SECOND_ATTEMPT, was_created(2)),
    "expired": EXPIRED,
    "rejected": (*SECOND_ATTEMPT, has_failed(2, FailureKind.FINAL)),
    "abandoned": ABANDONED,
}
DOUBTED: dict[str, tuple[e.Event, ...]] = {
    **{name: history for name, history in STILL_WAITING.items() if name != "in_doubt"},
    **{name: history for name, history in SETTLED.items() if name != "expired"},
    "parked": (*PARKED, retry_decided(), was_attempted(2), has_failed(2, FailureKind.UNSENT)),
}
"""Attempt 1 is in doubt, and the session does not wait on it."""
FAILURES: list[CreationOutcome] = [throttled(), *(failed(kind) for kind in FailureKind)]
DEFINITE: list[Throttled | Failed] = [
    throttled(),
    failed(status=425, retry_after_ms=2_000),
    *(failed(kind) for kind in FailureKind if kind is not FailureKind.IN_DOUBT),
]
"""Answers after which it is certain that no session was made."""


@pytest.mark.parametrize("history", STILL_WAITING.values(), ids=STILL_WAITING)
def test_a_late_answer_activates_a_session_that_is_still_waiting(
    history: tuple[e.Event, ...],
) -> None:
    then = given(*history).when(answer(created(session_id="sess_late"), attempt=1, now=at(4)))
    event = then.events[-1]
    assert isinstance(event, e.SessionCreated)
    assert (event.attempt, event.session_id) == (1, "sess_late")
    assert (then.state.status, then.state.session_id) == (Status.ACTIVE, "sess_late")


def test_an_attempt_overtaken_by_an_older_answer_is_in_doubt_until_answered() -> None:
    """The session no longer waits for that attempt. If its answer is lost, the history still shows the doubt."""
    then = given(*SECOND_ATTEMPT).when(answer(created(session_id="sess_late"), attempt=1, now=at(4)))
    overtaken = then.then_kinds(e.CreationFailed, e.SessionCreated).events[0]
    assert isinstance(overtaken, e.CreationFailed)
    assert (overtaken.attempt, overtaken.cause, overtaken.detail) == (2, Cause.OVERTAKEN, "1")
    assert (then.state.status, then.state.in_doubt) == (Status.ACTIVE, (2,))
    lost = given(*then.before, *then.events)
    lost.when(answer(failed(FailureKind.IN_DOUBT), attempt=2)).then_nothing()
    assert lost.when(answer(created(session_id="sess_second"), attempt=2)).state.in_doubt == ()
    lost.when(answer(failed(FailureKind.FINAL, 400), attempt=2)).then_kinds(e.DoubtLifted)


@pytest.mark.parametrize("history", SETTLED.values(), ids=SETTLED)
def test_a_second_remote_session_of_a_settled_session_is_a_duplicate(
    history: tuple[e.Event, ...],
) -> None:
    then = given(*history).when(answer(created(session_id="sess_second"), attempt=1, now=at(4)))
    then.then(was_duplicated(1, "sess_second", at=at(4)))
    assert then.state.status is given(*history).state.status
    assert then.state.session_id == given(*history).state.session_id
    assert then.state.duplicates == ("sess_second",)


def test_the_second_answer_is_the_duplicate_even_of_a_later_attempt() -> None:
    adopted = (*SECOND_ATTEMPT, was_created(1, session_id="sess_first"))
    given(*adopted).when(answer(created(session_id="sess_second"), attempt=2)).then(was_duplicated(2, "sess_second"))


@pytest.mark.parametrize("history", [*STILL_WAITING.values(), *SETTLED.values()], ids=[*STILL_WAITING, *SETTLED])
def test_a_late_answer_with_an_unusable_session_is_kept(history: tuple[e.Event, ...]) -> None:
    unusable = Failed(kind=FailureKind.IN_DOUBT, cause=Cause.UNREADABLE_ANSWER, status=201, session_id="sess_late")
    before = given(*history)
    then = before.when(answer(unusable, attempt=1, now=at(4)))
    assert [type(event) for event in then.events] == [e.DuplicateCreated]
    assert then.state.status is before.state.status
    assert then.state.duplicates == ("sess_late",)
    assert given(*history, *then.events).when(answer(unusable, attempt=1, now=at(5))).events == ()


def test_two_attempts_with_the_same_session_make_no_duplicate() -> None:
    adopted = (*SECOND_ATTEMPT, was_created(1, session_id="sess_same"))
    given(*adopted).when(answer(created(session_id="sess_same"), attempt=2)).then_nothing()


@pytest.mark.parametrize("readable", [True, False])
def test_a_late_answer_that_names_the_known_session_lifts_its_doubt(*, readable: bool) -> None:
    overtaken = given(*SECOND_ATTEMPT).when(answer(created(session_id="sess_same"), attempt=1, now=at(4)))
    unreadable = Failed(kind=FailureKind.IN_DOUBT, cause=Cause.UNREADABLE_ANSWER, session_id="sess_same")
    late = answer(created(session_id="sess_same") if readable else unreadable, attempt=2, now=at(5))
    then = given(*overtaken.before, *overtaken.events).when(late)
    lifted = then.then_one(e.DoubtLifted)
    assert (lifted.attempt, lifted.cause, lifted.detail) == (2, Cause.SESSION_KNOWN, "sess_same")
    assert (then.state.status, then.state.in_doubt, then.state.duplicates) == (Status.ACTIVE, (), ())


def test_a_duplicate_is_recorded_once() -> None:
    given(*ACTIVE, was_duplicated(1, "sess_second")).when(answer(created(session_id="sess_second"))).then_nothing()


def test_every_further_remote_session_is_recorded_as_a_duplicate() -> None:
    then = given(*ACTIVE, was_duplicated(1, "sess_2")).when(answer(created(session_id="sess_3")))
    assert then.state.duplicates == ("sess_2", "sess_3")


@pytest.mark.parametrize("outcome", DEFINITE, ids=lambda outcome: getattr(outcome, "kind", "throttled"))
@pytest.mark.parametrize("history", DOUBTED.values(), ids=DOUBTED)
def test_a_late_definite_failure_lifts_the_doubt_and_changes_nothing_else(
    history: tuple[e.Event, ...], outcome: CreationOutcome
) -> None:
    then = given(*history).when(answer(outcome, attempt=1))
    lifted = then.then_one(e.DoubtLifted)
    assert (lifted.attempt, lifted.retry_at) == (1, None)
    assert lifted.cause == (outcome.cause if isinstance(outcome, Failed) else Cause.THROTTLED)
    before, after = given(*history).state, then.state
    assert (before.in_doubt, after.in_doubt) == ((1,), ())
    assert replace(after, in_doubt=(1,), version=before.version) == before


@pytest.mark.parametrize("outcome", DEFINITE, ids=lambda outcome: getattr(outcome, "kind", "throttled"))
def test_lifting_the_doubt_keeps_the_later_of_planned_retry_and_retry_after(
    outcome: Throttled | Failed,
) -> None:
    then = given(*IN_DOUBT).when(answer(outcome, attempt=1))
    planned = 2 if outcome.retry_after else 0.25
    assert then.then_one(e.DoubtLifted).retry_at == at(planned)
    assert (then.state.status, then.state.retry_at, then.state.in_doubt) == (Status.PENDING, at(planned), ())


def test_lifting_the_doubt_past_the_deadline_abandons_a_parked_session() -> None:
    late = at(2 * 3_600)
    then = given(*PARKED).when(answer(failed(FailureKind.FINAL, 400), now=late))
    then.then_kinds(e.DoubtLifted, e.SessionAbandoned)


def test_a_late_answer_that_is_in_doubt_keeps_the_doubt() -> None:
    for history in (IN_DOUBT, PARKED, ABANDONED):
        given(*history).when(answer(failed(FailureKind.IN_DOUBT), attempt=1)).then_nothing()


@pytest.mark.parametrize("outcome", FAILURES, ids=lambda outcome: getattr(outcome, "kind", "throttled"))
@pytest.mark.parametrize("history", [EXPIRED, (*THROTTLED, was_attempted(2)), (*FAILED, was_attempted(2))])
def test_a_late_failure_of_an_attempt_not_in_doubt_changes_nothing(
    history: tuple[e.Event, ...], outcome: CreationOutcome
) -> None:
    given(*history).when(answer(outcome, attempt=1)).then_nothing()


@pytest.mark.parametrize(
    "outcome", [created(), *FAILURES], ids=lambda outcome: getattr(outcome, "kind", outcome.status)
)
def test_a_repeated_answer_is_recorded_once(outcome: CreationOutcome) -> None:
    first = given(*ATTEMPTING).when(answer(outcome))
    assert first.events
    given(*ATTEMPTING, *first.events).when(answer(outcome, now=at(1))).then_nothing()


@pytest.mark.parametrize(
    ("history", "attempt"),
    [((), 1), (REFUSED, 1), (OPEN, 1), (VALIDATED, 1), (ATTEMPTING, 0), (ATTEMPTING, 2), (THROTTLED, 2), (ACTIVE, 2)],
    ids=["new", "refused", "pending", "validated", "zeroth", "next", "throttled", "active"],
)
def test_an_answer_to_an_unknown_attempt_changes_nothing(history: tuple[e.Event, ...], attempt: int) -> None:
    outcomes: list[CreationOutcome] = [created(session_id="sess_strange"), *FAILURES]
    for outcome in outcomes:
        given(*history).when(answer(outcome, attempt)).then_nothing()
