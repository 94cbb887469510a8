"""In doubt: what each policy does after a lost answer, and what a person decides about a parked session."""

import pytest

from guestledger.adapters.cxone.profile import Profile
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import Adoption, CreationOutcome, FailureKind, Verdict
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from tests.unit.given import given
from tests.unit.samples import (
    ATTEMPTING,
    DETAIL,
    EXPIRY,
    IN_DOUBT,
    ONE_OF_EACH,
    OPEN,
    PARKED,
    START,
    THROTTLED,
    TOKEN,
    VALIDATED,
    abandonment_decided,
    adoption,
    answer,
    at,
    begin,
    created,
    enforce,
    expire,
    failed,
    has_expired,
    resolve,
    retry_decided,
    settle,
    throttled,
    token_found,
    was_adopted,
    was_attempted,
    was_created,
    was_duplicated,
)

LOST = failed(FailureKind.IN_DOUBT)
RETRYING = [InDoubt.RETRY_AND_RECORD, InDoubt.RETRY_WITH_KEY]
PARKING = Policy(creation=RetryPolicy(in_doubt=InDoubt.PARK))
LATE = at(2 * 3_600)
"""Past the deadline."""


@pytest.mark.parametrize("in_doubt", RETRYING)
def test_a_retrying_policy_repeats_an_attempt_in_doubt_with_the_same_key(
    in_doubt: InDoubt,
) -> None:
    policy = Policy(creation=RetryPolicy(in_doubt=in_doubt))
    then = given(*ATTEMPTING).when(answer(LOST), policy)
    assert then.then_one(e.CreationFailed).kind is FailureKind.IN_DOUBT
    again = given(*ATTEMPTING, *then.events).when(begin(at(10)), policy).then_one(e.CreationAttempted)
    first = was_attempted()
    assert (again.attempt, again.idempotency_key) == (2, first.idempotency_key)


def test_a_parking_policy_parks_a_session_whose_answer_is_lost() -> None:
    then = given(*ATTEMPTING).when(answer(LOST), PARKING)
    then.then_kinds(e.CreationFailed, e.SessionParked)
    assert (then.state.status, then.state.in_doubt, then.state.retry_at) == (Status.PARKED, (1,), None)
    assert (then.state.cause, then.state.detail) == (Cause.ANSWER_TIMEOUT, DETAIL)


def test_a_cut_off_attempt_parks_the_session_under_a_parking_policy() -> None:
    then = given(*ATTEMPTING).when(settle(1, at(30)), PARKING)
    then.then_kinds(e.CreationFailed, e.SessionParked)
    assert (then.state.status, then.state.cause) == (Status.PARKED, Cause.PROCESS_ENDED)


@pytest.mark.parametrize("outcome", [throttled(), failed(FailureKind.UNAVAILABLE), failed(FailureKind.UNSENT)])
def test_a_session_that_is_not_in_doubt_is_never_parked(outcome: CreationOutcome) -> None:
    then = given(*ATTEMPTING).when(answer(outcome), PARKING)
    assert then.state.status in (Status.THROTTLED, Status.PENDING)


def test_a_parked_session_has_no_due_step_and_no_deadline() -> None:
    parked = given(*PARKED)
    assert parked.due(PARKING) == {}
    parked.when(begin(LATE), PARKING).then_nothing()
    parked.when(enforce(LATE), PARKING).then_nothing()
    parked.when(expire(LATE), PARKING).then_nothing()
    assert given(*ATTEMPTING).when(answer(LOST, now=LATE), PARKING).state.status is Status.PARKED
    once = Policy(creation=RetryPolicy(in_doubt=InDoubt.PARK, max_failures=1))
    assert given(*ATTEMPTING).when(answer(LOST), once).state.status is Status.PARKED


def test_a_retry_decision_resets_failures_and_deadline() -> None:
    then = given(*PARKED).when(resolve(Verdict.RETRY, LATE), PARKING).then(retry_decided(at=LATE))
    assert (then.state.status, then.state.failures, then.state.in_doubt) == (Status.PENDING, 0, (1,))
    assert (then.state.cause, then.state.detail) == (Cause.RETRY_DECIDED, "checked with the provider")
    assert then.due(PARKING)[StepName.CREATE_SESSION] == LATE
    again = (*PARKED, *then.events, was_attempted(2, at=LATE))
    assert given(*again).when(answer(throttled(), 2, LATE), PARKING).state.status is Status.THROTTLED


def test_an_abandonment_decision_ends_a_parked_session() -> None:
    then = given(*PARKED).when(resolve(Verdict.ABANDON), PARKING).then(abandonment_decided())
    assert (then.state.status, then.state.in_doubt) == (Status.ABANDONED, (1,))
    assert (then.state.cause, then.state.detail) == (Cause.ABANDONMENT_DECIDED, "checked with the provider")
    assert then.due(PARKING) == {}


def test_an_adopted_session_is_delivered_to_the_webhook_and_expires() -> None:
    then = given(*PARKED).when(resolve(adoption()), PARKING).then(was_adopted())
    assert (then.state.status, then.state.session_id, then.state.guest_token) == (Status.ACTIVE, "sess_found", TOKEN)
    assert then.state.in_doubt == ()
    assert then.due() == {StepName.DELIVER_WEBHOOK: START, StepName.EXPIRE_TOKEN: EXPIRY}
    assert given(*PARKED, *then.events).when(expire(EXPIRY)).state.status is Status.EXPIRED


def test_an_adoption_owes_no_webhook_if_none_is_enabled() -> None:
    then = given(*PARKED).when(resolve(adoption()), Policy(webhook_enabled=False))
    then.then(was_adopted(webhook_owed=False))
    assert then.due() == {StepName.EXPIRE_TOKEN: EXPIRY}


def test_an_adoption_without_a_token_makes_an_active_session_without_a_token() -> None:
    then = given(*PARKED).when(resolve(adoption(guest_token=None)), PARKING)
    assert (then.state.status, then.state.guest_token, then.state.expires_at) == (Status.ACTIVE, None, EXPIRY)


def test_a_late_answer_activates_a_parked_session() -> None:
    then = given(*PARKED).when(answer(created(session_id="sess_late")), PARKING)
    assert then.then_one(e.SessionCreated).attempt == 1
    assert (then.state.status, then.state.in_doubt) == (Status.ACTIVE, ())


def test_a_session_found_after_the_decision_is_a_duplicate_unless_adopted() -> None:
    late = answer(created(session_id="sess_found"))
    given(*PARKED, abandonment_decided()).when(late).then(was_duplicated(1, "sess_found"))
    given(*PARKED, was_adopted(session_id="sess_other")).when(late).then(was_duplicated(1, "sess_found"))
    given(*PARKED, was_adopted()).when(late).then_nothing()


def test_a_late_answer_adds_the_missing_token_of_an_adopted_session_once() -> None:
    late = answer(created(session_id="sess_found"))
    without = (*PARKED, was_adopted(guest_token=None))
    then = given(*without).when(late).then(token_found())
    assert (then.state.status, then.state.guest_token, then.state.expires_at) == (Status.ACTIVE, TOKEN, EXPIRY)
    given(*without, token_found()).when(late).then_nothing()
    given(*without, has_expired()).when(late).then_nothing()


@pytest.mark.parametrize("resolution", [*Verdict, adoption()], ids=["retry", "abandon", "adopt"])
@pytest.mark.parametrize(
    "history",
    [(), OPEN, VALIDATED, ATTEMPTING, THROTTLED, IN_DOUBT, (*PARKED, retry_decided()), (*PARKED, was_created())],
)
def test_only_parked_sessions_can_be_resolved(history: tuple[e.Event, ...], resolution: Verdict | Adoption) -> None:
    given(*history).when(resolve(resolution), PARKING).then_nothing()


def test_no_repr_shows_the_token_of_an_adopted_session() -> None:
    for value in (adoption(), resolve(adoption()), was_adopted(), *ONE_OF_EACH):
        assert TOKEN not in repr(value)


def test_retry_with_key_requires_a_profile_that_honours_keys() -> None:
    with pytest.raises(ValueError, match="honours_idempotency_key"):
        Profile(in_doubt=InDoubt.RETRY_WITH_KEY)
    assert Profile(in_doubt=InDoubt.RETRY_WITH_KEY, honours_idempotency_key=True).honours_idempotency_key
