"""Notices that the webhook did not take: which they are, and sending them anew."""

from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.commands import RequestRedelivery
from guestledger.engine.domain.errors import RedeliveryRefused
from guestledger.engine.domain.events import WebhookAbandoned
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import EventFilter, RecordedEvent
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.ports import EventStore

_TELLING = EventFilter(types=("WebhookAbandoned", "WebhookRedeliveryRequested"))


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A notice that was given up. `id` is the session's, the engine's own."""

    id: UUID
    channel_id: str
    abandoned_at: datetime
    attempts: int
    status: int | None
    """Of the last answer (HTTP); `None`: there was none."""
    reason: str


class Webhooks:
    """Reads dead letters from the log, and asks for redeliveries. Whoever works on the ledger then sends them."""

    def __init__(self, *, store: EventStore, decisions: Decisions, policy: Policy) -> None:
        self._store = store
        self._decisions = decisions
        self._policy = policy

    async def dead_letters(self) -> list[DeadLetter]:
        """The notices that are given up now, oldest first. Reads the log from end to end; a detached month is not in it."""
        found: dict[UUID, DeadLetter] = {}
        async for batch in self._store.read_all(wanted=_TELLING):
            for recorded in batch:
                found.pop(recorded.stream_id, None)
                if isinstance(recorded.event, WebhookAbandoned):
                    found[recorded.stream_id] = _dead_letter(recorded.stream_id, recorded.event)
        return list(found.values())

    async def redeliver(self, history: list[RecordedEvent], *, requested_by: str, reason: str) -> Session:
        """Record that the notice of the session with this history is to go out anew; the session as it is then.

        Raises `RedeliveryRefused`, `InvalidRequest`, `ServiceError`.
        """
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
