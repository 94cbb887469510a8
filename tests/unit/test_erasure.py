"""Erasing the guest's personal data: what ends before it, and what may follow."""

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.outcomes import FailureKind, Verdict
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
    REJECTED,
    START,
    THROTTLED,
    TOKEN,
    VALIDATED,
    adoption,
    answer,
    created,
    deliver,
    delivered,
    erase,
    failed,
    redeliver,
    resolve,
    was_abandoned,
    was_adopted,
    was_erased,
    was_synced,
    webhook_abandoned,
    withdraw,
)

ENDED = was_abandoned(cause=Cause.GUEST_ERASED, attempts=1)
GIVEN_UP = webhook_abandoned(attempts=0, cause=Cause.GUEST_ERASED, detail="")
ERASED = (*ACTIVE, GIVEN_UP, was_erased())


@pytest.mark.parametrize("history", [OPEN, VALIDATED, THROTTLED, IN_DOUBT, PARKED, FAILED], ids=lambda h: h[-1])
def test_a_session_without_an_outcome_is_abandoned_before_its_guest_is_erased(history: tuple[Event, ...]) -> None:
    attempts = given(*history).state.attempts
    then = given(*history).when(erase())
    then.then(was_abandoned(cause=Cause.GUEST_ERASED, attempts=attempts), was_erased())
    assert (then.state.status, then.due()) == (Status.ABANDONED, {})


def test_an_attempt_in_flight_is_in_doubt_once_the_guest_is_erased() -> None:
    then = given(*ATTEMPTING).when(erase()).then_kinds(e.CreationFailed, e.SessionAbandoned, e.GuestErased)
    assert (then.state.status, then.state.in_doubt) == (Status.ABANDONED, (1,))


@pytest.mark.parametrize("history", [REFUSED, REJECTED, ABANDONED], ids=lambda h: h[-1])
def test_a_session_that_is_over_is_only_erased(history: tuple[Event, ...]) -> None:
    given(*history).when(erase()).then(was_erased())


def test_an_owed_notice_is_given_up_with_the_guest() -> None:
    then = given(*ACTIVE).when(erase()).then(GIVEN_UP, was_erased())
    assert StepName.DELIVER_WEBHOOK not in then.due()


@pytest.mark.parametrize(("status", "kind"), [(200, e.WebhookSynced), (503, e.WebhookAbandoned)])
def test_the_outcome_of_a_call_that_an_erasure_overtook_is_recorded_once(status: int, kind: type[Event]) -> None:
    late = given(*ERASED).when(deliver(delivered(status))).then_kinds(kind)
    assert (late.state.webhook_owed, late.state.webhook_attempts) == (False, 1)

    given(*ERASED, *late.events).when(deliver(delivered())).then_nothing()


@pytest.mark.parametrize("status", [None, 200, 503])
def test_a_receiver_that_may_know_an_erased_guest_gets_the_withdrawal(status: int | None) -> None:
    late = () if status is None else given(*ERASED).when(deliver(delivered(status))).events
    assert given(*ERASED, *late).when(withdraw()).then_one(e.ConsentWithdrawn).webhook_owed


def test_a_start_accepted_after_erasure_and_withdrawal_leaves_the_withdrawal_owed() -> None:
    withdrawn = given(*ERASED).when(withdraw()).events
    late = given(*ERASED, *withdrawn).when(deliver(delivered())).then_kinds(e.WebhookSynced)
    assert late.state.webhook_owed


def test_a_call_settled_before_the_erasure_is_not_recorded_again() -> None:
    given(*ACTIVE, was_synced(), was_erased()).when(deliver(delivered())).then_nothing()


def test_an_active_session_stays_active_without_its_token_until_it_expires() -> None:
    then = given(*ACTIVE, was_synced()).when(erase()).then(was_erased())
    assert (then.state.status, then.state.guest_token, then.state.erased_at) == (Status.ACTIVE, None, START)
    assert list(then.due()) == [StepName.EXPIRE_TOKEN]


@pytest.mark.parametrize("history", [ERASED, (*ABANDONED, was_erased())], ids=["active", "abandoned"])
def test_a_guest_is_erased_once(history: tuple[Event, ...]) -> None:
    given(*history).when(erase()).then_nothing()


def test_a_session_made_after_its_guest_was_erased_is_recorded_without_its_token() -> None:
    erased = given(*ATTEMPTING).when(erase())
    late = given(*erased.before, *erased.events).when(answer(created()))
    duplicate = late.then_one(e.DuplicateCreated)
    assert TOKEN not in repr(duplicate)
    assert late.state.in_doubt == ()


def test_a_late_failure_ends_the_doubt_of_an_erased_session() -> None:
    erased = given(*ATTEMPTING).when(erase())
    late = given(*erased.before, *erased.events).when(answer(failed(FailureKind.UNAVAILABLE)))
    late.then_kinds(e.DoubtLifted)
    assert (late.state.status, late.state.in_doubt) == (Status.ABANDONED, ())


def test_the_token_of_an_adopted_session_is_not_recorded_after_its_guest_was_erased() -> None:
    adopted = (*PARKED, was_adopted(guest_token=None, webhook_owed=False), was_erased())
    given(*adopted).when(answer(created(session_id="sess_found"))).then_nothing()


def test_a_parked_session_whose_guest_was_erased_cannot_be_resolved() -> None:
    erased = given(*PARKED).when(erase())
    for resolution in (Verdict.RETRY, adoption()):
        given(*erased.before, *erased.events).when(resolve(resolution)).then_nothing()


def test_the_notice_of_an_erased_guest_is_not_sent_again() -> None:
    given(*ERASED).when(redeliver()).then_nothing()


def test_an_expired_session_can_be_erased() -> None:
    given(*EXPIRED, was_synced()).when(erase()).then(was_erased())
