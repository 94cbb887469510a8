"""Webhook decisions: retries, dead letters and redelivery."""

from datetime import timedelta

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import RecordDelivery, RequestRedelivery
from guestledger.engine.domain.outcomes import Delivery
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Session, Status, WebhookNotice
from guestledger.engine.limits.retry import RetryAfter, Wait, WaitBasis


def record_delivery(state: Session, command: RecordDelivery, policy: DeliveryPolicy) -> list[e.Event]:
    """What came of a webhook call; nothing if this notice is not owed."""
    outcome, attempt = command.outcome, state.webhook_attempts + 1
    if not (_was_overtaken(state, command) or (state.webhook_owed and command.notice is state.notice)):
        return []
    if outcome.accepted:
        return [
            e.WebhookSynced(
                at=command.now,
                channel_id=state.channel_id,
                notice=command.notice,
                attempt=attempt,
                status=outcome.status,
                latency_ms=outcome.latency_ms,
            )
        ]
    given_up = _why_given_up(state, command, policy)
    if given_up is None:
        return [_failed(state, command, policy)]
    return [
        e.WebhookAbandoned(
            at=command.now,
            channel_id=state.channel_id,
            notice=command.notice,
            attempts=attempt,
            cause=given_up,
            status=outcome.status,
            detail=_given_up_detail(given_up, outcome),
        )
    ]


def _was_overtaken(state: Session, command: RecordDelivery) -> bool:
    """Whether an erasure was recorded during the call, or a withdrawal during an accepted one: the log shows who has what."""
    if command.notice is state.notice:
        return state.webhook_erased
    return state.status is Status.WITHDRAWN and state.session_id is not None and command.outcome.accepted


def _given_up_detail(cause: Cause, outcome: Delivery) -> str:
    asked = outcome.retry_after
    return f"{asked.ms} ms" if cause is Cause.WAIT_TOO_LONG and asked is not None else outcome.detail


def _why_given_up(state: Session, command: RecordDelivery, policy: DeliveryPolicy) -> Cause | None:
    outcome = command.outcome
    if outcome.gone:
        return Cause.RECEIVER_GONE
    if state.webhook_erased or state.webhook_failures + 1 >= policy.max_failures:
        return outcome.cause or Cause.NOT_ACCEPTED
    if outcome.retry_after is not None and outcome.retry_after.ms > policy.max_wait_ms:
        return Cause.WAIT_TOO_LONG
    return None


def _failed(state: Session, command: RecordDelivery, policy: DeliveryPolicy) -> e.Event:
    outcome = command.outcome
    wait = _wait(policy.waits_ms[state.webhook_failures], outcome.retry_after, policy, command.jitter)
    return e.WebhookFailed(
        at=command.now,
        channel_id=state.channel_id,
        notice=command.notice,
        attempt=state.webhook_attempts + 1,
        cause=outcome.cause or Cause.NOT_ACCEPTED,
        status=outcome.status,
        detail=outcome.detail,
        latency_ms=outcome.latency_ms,
        wait=wait,
        retry_at=command.now + timedelta(milliseconds=wait.ms),
    )


def _wait(scheduled_ms: int, asked: RetryAfter | None, policy: DeliveryPolicy, jitter: float) -> Wait:
    basis, basis_ms = WaitBasis.SCHEDULE, scheduled_ms
    if asked is not None and asked.ms > scheduled_ms:
        basis, basis_ms = asked.basis, asked.ms
    extra_ms = int(basis_ms * policy.jitter_percent / 100 * jitter)
    given = asked.given if asked else None
    return Wait(ms=basis_ms + extra_ms, basis=basis, basis_ms=basis_ms, extra_ms=extra_ms, given=given)


def request_redelivery(state: Session, command: RequestRedelivery, policy: Policy) -> list[e.Event]:
    """Send a dead letter or an accepted notice again; otherwise nothing. Without contact data there is no notice."""
    gone = state.contact_erased_at is not None and state.notice is WebhookNotice.SESSION_STARTED
    if not policy.webhook_enabled or state.session_id is None or state.webhook_owed or gone:
        return []
    return [
        e.WebhookRedeliveryRequested(
            at=command.now, channel_id=state.channel_id, requested_by=command.requested_by, reason=command.reason
        )
    ]
