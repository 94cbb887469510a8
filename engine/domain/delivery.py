"""The webhook's decisions: when a notice is sent again, when it becomes a dead letter, and when it is sent anew."""

from datetime import timedelta

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import RecordDelivery, RequestRedelivery
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.retry import RetryAfter

_SECOND, _MINUTE, _HOUR = 1_000, 60_000, 3_600_000

STANDARD_WAITS_MS = (
    5 * _SECOND,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
"""The example schedule of Standard Webhooks 1.0.0, "Deliverability and reliability"; its first try is made at once."""

GONE = 410


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a notice that was not taken is sent again, and when it is given up."""

    waits_ms: tuple[int, ...] = STANDARD_WAITS_MS
    """Before the second try, the third and so on; when they are used up, the notice is a dead letter."""
    jitter_percent: int = 10
    """Up to so much of a wait comes on top of it."""
    max_wait_ms: int = 7 * 24 * _HOUR
    """A notice whose receiver asks for more with `Retry-After` is a dead letter at once. No limiter closes for so long: other
    notices are sent all the same, and each hears for itself how it stands."""

    @property
    def max_failures(self) -> int:
        """How many tries in a row may fail before the notice is given up."""
        return len(self.waits_ms) + 1


def record_delivery(state: Session, command: RecordDelivery, policy: DeliveryPolicy) -> list[e.Event]:
    """What came of a call of the webhook; nothing where none is owed any more."""
    outcome, attempt = command.outcome, state.webhook_attempts + 1
    if state.session_id is None or state.webhook_settled:
        return []
    if outcome.taken:
        assert outcome.status is not None
        return [
            e.WebhookSynced(
                at=command.now,
                channel_id=state.channel_id,
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
            at=command.now, channel_id=state.channel_id, attempts=attempt, status=outcome.status, reason=given_up
        )
    ]


def _why_given_up(state: Session, command: RecordDelivery, policy: DeliveryPolicy) -> str | None:
    """Why the failed call was the last one; `None` when another is to be made."""
    outcome = command.outcome
    if outcome.status == GONE:
        return f"{outcome.message}: the receiver wants no more of it"
    if state.webhook_failures + 1 >= policy.max_failures:
        return outcome.message
    asked = outcome.retry_after
    if asked is not None and asked.ms > policy.max_wait_ms:
        return f"{outcome.message}: {asked.why}, and no notice is kept longer than {policy.max_wait_ms} ms"
    return None


def _failed(state: Session, command: RecordDelivery, policy: DeliveryPolicy) -> e.Event:
    outcome, asked = command.outcome, command.outcome.retry_after
    wait_ms, reason = _wait(policy.waits_ms[state.webhook_failures], asked, policy, command.jitter)
    return e.WebhookFailed(
        at=command.now,
        channel_id=state.channel_id,
        attempt=state.webhook_attempts + 1,
        status=outcome.status,
        message=outcome.message,
        latency_ms=outcome.latency_ms,
        retry_after_given=asked.given if asked else None,
        retry_after_ms=asked.ms if asked else None,
        wait_ms=wait_ms,
        reason=reason,
        retry_at=command.now + timedelta(milliseconds=wait_ms),
    )


def _wait(scheduled_ms: int, asked: RetryAfter | None, policy: DeliveryPolicy, jitter: float) -> tuple[int, str]:
    """How long to wait, and why: the schedule's wait or the receiver's, whichever is longer, and never less."""
    least, why = scheduled_ms, f"{scheduled_ms} ms by the schedule"
    if asked is not None and asked.ms > scheduled_ms:
        least, why = asked.ms, asked.why
    extra = int(least * policy.jitter_percent / 100 * jitter)
    return least + extra, f"{why}, plus {extra} ms jitter"


def request_redelivery(state: Session, command: RequestRedelivery, *, enabled: bool) -> list[e.Event]:
    """The notice is to go out anew: a dead letter, or one that the receiver took and has lost.

    Nothing where no notice is owed, where one is still being delivered, or where no webhook is set (`enabled` is false).
    """
    if not enabled or state.session_id is None or not state.webhook_settled:
        return []
    return [
        e.WebhookRedeliveryRequested(
            at=command.now, channel_id=state.channel_id, requested_by=command.requested_by, reason=command.reason
        )
    ]
