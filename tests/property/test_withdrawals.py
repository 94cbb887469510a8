"""Withdrawals at any point of any history, and every call of the webhook around one."""

from collections.abc import Sequence

from hypothesis import given, strategies as st

from guestledger.engine.domain.commands import (
    BeginAttempt,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    WithdrawConsent,
)
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.outcomes import Created, Delivery
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status, WebhookNotice
from tests.property.invariants import Life
from tests.property.moves import DIGEST, Move, histories
from tests.property.strategies import CONSENTING, START, USABLE, creations, deliveries, patient_policies
from tests.unit.samples import HMAC_KEY

WITHDRAW = WithdrawConsent(marketing_only=False, requested_by="guest", reason=None, now=START)


@given(policy=patient_policies, before=histories, after=st.lists(creations, max_size=2))
def test_a_withdrawal_ends_any_history_for_good(
    policy: Policy, before: Sequence[Move], after: Sequence[Created]
) -> None:
    life = Life(policy)
    for move in before:
        life.take(move(life.state))
    accepted = life.state.consent is not None
    life.take(WITHDRAW)
    for outcome in after:
        life.take(RecordAttempt(attempt=life.state.attempts, outcome=outcome, now=START, jitter=0))
    assert (life.state.status is Status.WITHDRAWN) == accepted
    if accepted:
        assert life.state.guest_token is None
        assert {due.step for due in due_steps(life.state, policy)} <= {StepName.DELIVER_WEBHOOK, StepName.ERASE_CONTACT}


@given(
    policy=patient_policies,
    created=creations,
    before=st.lists(deliveries, max_size=3),
    after=st.lists(st.tuples(st.sampled_from(WebhookNotice), deliveries), max_size=5),
)
def test_only_calls_of_the_withdrawal_settle_its_notice(
    policy: Policy, created: Created, before: Sequence[Delivery], after: Sequence[tuple[WebhookNotice, Delivery]]
) -> None:
    life = Life(policy)
    life.take(OpenSession(hmac_key=HMAC_KEY, request=CONSENTING, now=START))
    life.take(RecordLookup(outcome=USABLE, now=START, jitter=0))
    life.take(BeginAttempt(request_hmac=DIGEST, now=START))
    life.take(RecordAttempt(attempt=1, outcome=created, now=START, jitter=0))
    for outcome in before:
        life.take(RecordDelivery(notice=WebhookNotice.SESSION_STARTED, outcome=outcome, now=START, jitter=0))
    life.take(WITHDRAW)
    assert life.state.webhook_owed == policy.webhook_enabled
    for notice, outcome in after:
        owed = life.state.webhook_owed
        life.take(RecordDelivery(notice=notice, outcome=outcome, now=START, jitter=0))
        if notice is WebhookNotice.SESSION_STARTED:
            assert life.state.webhook_owed == owed
