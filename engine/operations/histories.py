"""Histories of sessions."""

from contextlib import suppress
from uuid import UUID

from guestledger.engine.domain.errors import PartitionDetached, SessionIdShared, SessionNotFound
from guestledger.engine.domain.events import SessionEvent
from guestledger.engine.log.recorded import RecordedEvent, month_of
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.read_models import ReadModels


class Histories:
    """Reads histories by the engine's session id or by the provider's."""

    def __init__(self, *, store: EventStore, read_models: ReadModels) -> None:
        self._store = store
        self._read_models = read_models

    async def find(self, session: UUID | str) -> list[RecordedEvent]:
        """See `Ledger.history`."""
        history: list[RecordedEvent] = []
        with suppress(ValueError):
            history = await self._store.read_stream(UUID(str(session)))
        if history and not isinstance(history[0].event, SessionEvent):  # it is a look at personal data
            history = []
        if not history:  # a provider's id may be a UUID too
            await self._read_models.catch_up()
            history = await self.of_stream(await self._only(str(session)))
        return history

    async def _only(self, session: str) -> UUID:
        found = await self._read_models.streams_of(session)
        if not found:
            raise SessionNotFound(session)
        if len(found) > 1:  # an erasure or a withdrawal is for exactly one session
            raise SessionIdShared(session, found)
        return found[0]

    async def of_stream(self, stream_id: UUID) -> list[RecordedEvent]:
        """Return the events of a stream that exists. Raises `PartitionDetached`."""
        history = await self._store.read_stream(stream_id)
        if not history:
            raise PartitionDetached(stream_id, month_of(stream_id))
        return history
