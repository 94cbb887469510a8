"""Withdrawing consent: at any time, once, and with a notice to a receiver that knows the session."""

import pytest
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import FailureKind, Verdict
from guestledger.engine.domain.session import Status, WebhookNotice
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
    THROTTLED,
    VALIDATED,
    WITHDRAWN,
    answer,
    at,
    begin,
    channel,
    created,
    deliver,
    delivered,
    enforce,
    expire,
    failed,
    look_up,
    marketing_withdrawn,
    recorded_consent,
    redeliver,
    resolve,
    settle,
    throttled,
    was_created,
    was_duplicated,
    was_recorded,
    was_synced,
    was_withdrawn,
    webhook_abandoned,
    webhook_failed,
    withdraw,
)

ENDED: dict[str, tuple[e.Event, ...]] = {
    "pending": OPEN,
    "validated": VALIDATED,
    "failed": FAILED,
    "throttled": THROTTLED,
    "in_doubt": IN_DOUBT,
    "parked": PARKED,
    "active": ACTIVE,
    "expired": EXPIRED,
    "rejected": REJECTED,
    "abandoned": ABANDONED,
}
MARKETING = (was_recorded(consent=recorded_consent(marketing=True)), *ACTIVE[1:])
STARTED, CONSENT_WITHDRAWN = WebhookNotice.SESSION_STARTED, WebhookNotice.CONSENT_WITHDRAWN


@pytest.mark.parametrize("history", ENDED.values(), ids=ENDED)
def test_a_withdrawal_ends_the_session_whatever_its_status(history: tuple[e.Event, ...]) -> None:
    before = given(*history).state
    then = given(*history).when(withdraw(at(60)))
    then.then(was_withdrawn(before.status, at=at(60), webhook_owed=before.session_id is not None))
    after = then.state
    assert (after.status, after.cause, after.detail) == (Status.WITHDRAWN, Cause.CONSENT_WITHDRAWN, "by e-mail")
    assert (after.withdrawn_at, after.retry_at, after.guest_token) == (at(60), None, None)
    assert after.status.is_settled
    assert set(then.due()) <= {StepName.DELIVER_WEBHOOK}, "pending attempts stop"


@pytest.mark.parametrize("history", ENDED.values(), ids=ENDED)
def test_nothing_but_notices_and_late_answers_follows_a_withdrawal(history: tuple[e.Event, ...]) -> None:
    before = given(*history)
    ended = given(*history, *before.when(withdraw()).events)
    for command in (
        look_up(channel()),
        begin(),
        settle(),
        enforce(at(10_000)),
        expire(at(10_000)),
        resolve(Verdict.RETRY),
        withdraw(at(1)),
        withdraw(at(1), marketing_only=True),
    ):
        ended.when(command).then_nothing()


@pytest.mark.parametrize("history", [(), REFUSED], ids=["new", "refused"])
def test_a_consent_that_was_never_given_cannot_be_withdrawn(history: tuple[e.Event, ...]) -> None:
    given(*history).when(withdraw()).then_nothing()
    given(*history).when(withdraw(marketing_only=True)).then_nothing()


def test_an_attempt_under_way_is_in_doubt_after_a_withdrawal() -> None:
    then = given(*ATTEMPTING).when(withdraw(at(1)))
    doubt, withdrawn = then.then_kinds(e.CreationFailed, e.ConsentWithdrawn).events
    assert isinstance(doubt, e.CreationFailed)
    assert (doubt.kind, doubt.cause, doubt.attempt) == (FailureKind.IN_DOUBT, Cause.CONSENT_WITHDRAWN, 1)
    assert isinstance(withdrawn, e.ConsentWithdrawn)
    assert (withdrawn.ended, withdrawn.webhook_owed) == (Status.IN_DOUBT, False)
    assert (then.state.status, then.state.in_doubt, then.due()) == (Status.WITHDRAWN, (1,), {})


def test_a_late_session_of_a_withdrawn_guest_is_a_duplicate_nobody_uses() -> None:
    after = given(*ATTEMPTING, *given(*ATTEMPTING).when(withdraw(at(1))).events)
    then = after.when(answer(created(session_id="sess_late"), now=at(2)))
    then.then(was_duplicated(1, "sess_late", at=at(2)))
    assert (then.state.status, then.state.session_id, then.state.in_doubt) == (Status.WITHDRAWN, None, ())
    assert then.due() == {}


@pytest.mark.parametrize("outcome", [throttled(), failed(FailureKind.FINAL, 400), failed(FailureKind.UNSENT)])
def test_a_late_failure_lifts_the_doubt_of_a_withdrawn_guest(outcome: object) -> None:
    after = given(*ATTEMPTING, *given(*ATTEMPTING).when(withdraw(at(1))).events)
    then = after.when(answer(outcome, now=at(2)))  # type: ignore[arg-type]
    then.then_kinds(e.DoubtLifted)
    assert (then.state.status, then.state.in_doubt, then.due()) == (Status.WITHDRAWN, (), {})


# The webhook


@pytest.mark.parametrize(
    "calls",
    [(), (webhook_failed(),), (was_synced(),), (webhook_abandoned(),)],
    ids=["still due", "failed", "accepted", "dead letter"],
)
def test_the_receiver_gets_a_notice_if_the_start_was_sent_or_due(calls: tuple[e.Event, ...]) -> None:
    then = given(*ACTIVE, *calls).when(withdraw(at(60)))
    assert then.then_one(e.ConsentWithdrawn).webhook_owed
    assert then.due() == {StepName.DELIVER_WEBHOOK: at(60)}
    assert then.state.notice is CONSENT_WITHDRAWN
    assert then.state.webhook_failures == 0, "the schedule begins again"


def test_a_receiver_that_never_knew_the_session_gets_no_notice() -> None:
    then = given(*ATTEMPTING, was_created(webhook_owed=False)).when(withdraw())
    assert not then.then_one(e.ConsentWithdrawn).webhook_owed
    assert then.due() == {}


def test_the_notice_of_a_withdrawal_is_retried_and_numbered_on() -> None:
    after = given(*WITHDRAWN)
    event = after.when(deliver(delivered(500), jitter=0, notice=CONSENT_WITHDRAWN)).then_one(e.WebhookFailed)
    assert (event.notice, event.attempt, event.wait.ms) == (CONSENT_WITHDRAWN, 2, 5_000)
    then = given(*WITHDRAWN, event).when(deliver(delivered(200), notice=CONSENT_WITHDRAWN))
    assert then.then_one(e.WebhookSynced).attempt == 3
    assert (then.state.webhook_owed, then.due()) == (False, {})


def test_an_acceptance_of_the_start_after_the_withdrawal_settles_nothing() -> None:
    withdrawn = (*ACTIVE, was_withdrawn(at=at(1)))
    then = given(*withdrawn).when(deliver(delivered(200), now=at(2), notice=STARTED))
    assert then.then_one(e.WebhookSynced).notice is STARTED
    assert then.state.webhook_owed
    assert then.due() == {StepName.DELIVER_WEBHOOK: at(1)}


@pytest.mark.parametrize("status", [500, 410, None])
def test_a_failed_call_of_the_start_after_the_withdrawal_does_not_matter(status: int | None) -> None:
    given(*ACTIVE, was_withdrawn()).when(deliver(delivered(status), notice=STARTED)).then_nothing()


@pytest.mark.parametrize("settled", [was_synced, webhook_abandoned], ids=["synced", "abandoned"])
def test_a_redelivery_after_the_withdrawal_sends_the_withdrawal(settled: object) -> None:
    history = (*WITHDRAWN, settled(notice=CONSENT_WITHDRAWN))  # type: ignore[operator]
    then = given(*history).when(redeliver(now=at(90)))
    then.then_kinds(e.WebhookRedeliveryRequested)
    assert (then.state.notice, then.due()) == (CONSENT_WITHDRAWN, {StepName.DELIVER_WEBHOOK: at(90)})


# Marketing alone


def test_withdrawing_marketing_changes_the_record_and_not_the_session() -> None:
    before = given(*MARKETING)
    then = before.when(withdraw(at(60), marketing_only=True))
    then.then(marketing_withdrawn(at=at(60), reason="by e-mail"))
    assert then.state.consent is not None
    assert not then.state.consent.marketing
    assert replace(then.state, consent=before.state.consent, version=before.state.version) == before.state
    assert then.due() == before.due()


@pytest.mark.parametrize("history", [ACTIVE, (*MARKETING, marketing_withdrawn())], ids=["never given", "withdrawn"])
def test_marketing_is_withdrawn_only_once_and_if_it_was_given(history: tuple[e.Event, ...]) -> None:
    given(*history).when(withdraw(marketing_only=True)).then_nothing()


def test_a_session_without_marketing_can_still_be_withdrawn() -> None:
    given(*MARKETING, marketing_withdrawn()).when(withdraw()).then_kinds(e.ConsentWithdrawn)


def test_a_withdrawn_session_gives_the_guest_no_token() -> None:
    assert given(*WITHDRAWN).state.for_guest(token=True)["token"] is None
