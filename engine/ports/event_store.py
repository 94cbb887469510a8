"""The event log."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol
from uuid import UUID

from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent


class EventStore(Protocol):
    """The log: append-only, dense positions in commit order."""

    async def append(self, append: Append) -> Appended:
        """Record the events of `append`, all or none, durably.

        Raises `WrongExpectedVersion`, `KeyTaken`, `AppendDenied`, `EventTooLarge`, or `ServiceUnreachable`: the append may
        be recorded then, and the same append handed in again gets its answer.
        """
        ...

    async def read_stream(self, stream_id: UUID) -> list[RecordedEvent]:
        """All events of one stream, in order; empty if there are none. Raises `UnknownEvent`."""
        ...

    async def read_streams(self, stream_ids: Sequence[UUID]) -> dict[UUID, list[RecordedEvent]]:
        """The events of many streams in one round trip. Streams without events are left out. Raises `UnknownEvent`."""
        ...

    def read_all(
        self, *, after: int = -1, batch: int = 500, wanted: EventFilter = EventFilter()
    ) -> AsyncIterator[list[RecordedEvent]]:
        """The matching events up to the log's present end, by position, in batches of at most `batch`.

        Raises `UnknownEvent` at an unreadable event, after all events before it.
        """
        ...

    async def read_batch(self, *, after: int, batch: int = 500, wanted: EventFilter = EventFilter()) -> Batch:
        """The next matching events after a position, at most `batch`, and how far the log was read.

        At the log's end the batch is empty and stands at `after`. Raises `UnknownEvent` if the very next matching event is
        unreadable; a later one only ends the batch before it.
        """
        ...

    def arrival(self) -> asyncio.Event:
        """An event that is set when the log may have grown since this call. A hint: it may be late, in vain, or lost."""
        ...

    async def head(self) -> int:
        """The position of the last event; -1 if the log is empty."""
        ...
