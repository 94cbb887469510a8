"""`ledger.webhooks`."""

from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import RequestRedelivery
from guestledger.engine.domain.errors import RedeliveryRefusal, RedeliveryRefused
from guestledger.engine.domain.events import GuestErased, WebhookAbandoned
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Session, WebhookNotice
from guestledger.engine.log.recorded import EventFilter
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.histories import Histories
from guestledger.engine.ports.event_store import EventStore

# A withdrawal ends what was owed before, and without contact data no notice of a start can be sent again.
_WANTED = EventFilter(
    types=("WebhookAbandoned", "WebhookRedeliveryRequested", "ConsentWithdrawn", "GuestErased", "ContactErased")
)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A notice that was given up. `id` is the session's, the engine's own."""

    id: UUID
    channel_id: str
    abandoned_at: datetime
    attempts: int
    cause: Cause
    status: int | None
    """The status of the last answer; `None`: there was none."""
    detail: str


class Webhooks:
    """Dead letters and redelivery. Workers send what is requested here."""

    def __init__(self, *, store: EventStore, histories: Histories, decisions: Decisions, policy: Policy) -> None:
        self._store = store
        self._histories = histories
        self._decisions = decisions
        self._policy = policy

    async def dead_letters(self) -> list[DeadLetter]:
        """Return the present dead letters, oldest first. Reads the whole log, without detached partitions."""
        found: dict[UUID, DeadLetter] = {}
        erased: set[UUID] = set()
        async for batch in self._store.read_all(wanted=_WANTED):
            for recorded in batch:
                stream_id = recorded.stream_id
                found.pop(stream_id, None)
                match recorded.event:
                    case GuestErased():
                        erased.add(stream_id)
                    case WebhookAbandoned(notice=WebhookNotice.SESSION_STARTED) if stream_id in erased:
                        pass  # its call ended after the erasure
                    case WebhookAbandoned() as event:
                        found[stream_id] = _dead_letter(stream_id, event)
        return list(found.values())

    async def redeliver(
        self, session: UUID | str, *, requested_by: str, reason: str, expected_version: int | None = None
    ) -> Session:
        """Record a request to send the session's notice again. Returns the session.

        It is a dead letter, or a notice that the receiver accepted and lost. Neither text may contain a secret or personal
        data. Raises `SessionNotFound`, `RedeliveryRefused`, `WrongExpectedVersion` if the session is not at `expected_version`,
        and `InvalidRequest` for a text that cannot be stored.
        """
        history = await self._histories.find(session)
        requested_by, reason = checked_text("requestedBy", requested_by), checked_text("reason", reason)

        def command(now: datetime) -> RequestRedelivery:
            return RequestRedelivery(requested_by=requested_by, reason=reason, now=now)

        def refused(state: Session) -> RedeliveryRefused:
            return RedeliveryRefused(state.id, _why_refused(state, self._policy), state.status)

        return await self._decisions.record(
            history, command, actor=requested_by, refused=refused, expected_version=expected_version
        )


def _dead_letter(stream_id: UUID, event: WebhookAbandoned) -> DeadLetter:
    return DeadLetter(
        id=stream_id,
        channel_id=event.channel_id,
        abandoned_at=event.at,
        attempts=event.attempts,
        cause=event.cause,
        status=event.status,
        detail=event.detail,
    )


def _why_refused(state: Session, policy: Policy) -> RedeliveryRefusal:
    if not policy.webhook_enabled:
        return RedeliveryRefusal.NO_WEBHOOK
    if state.session_id is None:
        return RedeliveryRefusal.NO_SESSION
    return RedeliveryRefusal.ERASED if state.contact_erased_at is not None else RedeliveryRefusal.IN_DELIVERY
