"""`ledger.webhooks`: the notices that failed, and sending them again."""

from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.commands import RequestRedelivery
from guestledger.engine.domain.errors import RedeliveryRefused
from guestledger.engine.domain.events import WebhookAbandoned
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import EventFilter
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.histories import Histories
from guestledger.engine.ports import EventStore

_RELEVANT = EventFilter(types=("WebhookAbandoned", "WebhookRedeliveryRequested"))


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A notice whose delivery failed for good. `id` is the engine's session id."""

    id: UUID
    channel_id: str
    abandoned_at: datetime
    attempts: int
    status: int | None
    """Of the last HTTP response, if there was one."""
    reason: str


class Webhooks:
    """The analytics webhook: dead letters and redelivery."""

    def __init__(self, *, store: EventStore, histories: Histories, decisions: Decisions, policy: Policy) -> None:
        self._store = store
        self._histories = histories
        self._decisions = decisions
        self._policy = policy

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the failed deliveries, oldest first. Reads the whole log, except detached partitions."""
        found: dict[UUID, DeadLetter] = {}
        async for batch in self._store.read_all(wanted=_RELEVANT):
            for recorded in batch:
                found.pop(recorded.stream_id, None)
                if isinstance(recorded.event, WebhookAbandoned):
                    found[recorded.stream_id] = _dead_letter(recorded.stream_id, recorded.event)
        return list(found.values())

    async def redeliver(self, session: UUID | str, *, requested_by: str, reason: str) -> Session:
        """Record a request to send the session's notice again, and return the session. A scheduler sends it.

        It may be a dead letter, or a notice that the receiver accepted and lost. Neither text may contain a secret or
        personal data. Raises `SessionNotFound`, `RedeliveryRefused`, and `InvalidRequest` for a text that cannot be stored.
        """
        history = await self._histories.find(session)
        requested_by, reason = checked_text("requestedBy", requested_by), checked_text("reason", reason)

        def command(now: datetime) -> RequestRedelivery:
            return RequestRedelivery(requested_by=requested_by, reason=reason, now=now)

        def refused(state: Session) -> RedeliveryRefused:
            return RedeliveryRefused(state.id, _why_not(state, self._policy))

        return await self._decisions.record(history, command, actor=requested_by, refused=refused)


def _dead_letter(stream_id: UUID, event: WebhookAbandoned) -> DeadLetter:
    return DeadLetter(
        id=stream_id,
        channel_id=event.channel_id,
        abandoned_at=event.at,
        attempts=event.attempts,
        status=event.status,
        reason=event.reason,
    )


def _why_not(state: Session, policy: Policy) -> str:
    if not policy.webhook_enabled:
        return "no webhook is set: set GUESTLEDGER_WEBHOOK_URL"
    if state.session_id is None:
        return f"it is {state.status}, and the webhook is told of sessions that were made, no others"
    return "its notice is still being delivered"
