"""The event log."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent, RecordedPolicy


class EventStore(Protocol):
    """The log: append-only, dense positions in commit order."""

    async def append(self, append: Append) -> Appended:
        """Record all events or none, durably.

        Raises `WrongExpectedVersion`, `KeyTaken`, `AppendDenied`, `EventTooLarge`, `SubjectErased`, or `ServiceUnreachable`: it may be
        recorded then; repeating it gets its answer. The version is checked before the key: a stale append is a conflict
        even if its own stream has the key.
        """
        ...

    async def read_stream(self, stream_id: UUID, *, reveal: bool = False) -> list[RecordedEvent]:
        """All events of one stream, in order; with `reveal`, their personal values in clear, unless they were erased.

        Raises `UnknownEvent`.
        """
        ...

    async def read_streams(
        self, stream_ids: Sequence[UUID], *, reveal: bool = False
    ) -> dict[UUID, list[RecordedEvent]]:
        """The same for many streams in one round trip. Empty streams are left out."""
        ...

    async def read_openings(self, stream_ids: Sequence[UUID]) -> list[RecordedEvent]:
        """The first event of each of these streams that is there, in no order. Raises `UnknownEvent`."""
        ...

    def read_all(
        self, *, after: int = -1, batch: int = 500, wanted: EventFilter = EventFilter()
    ) -> AsyncIterator[list[RecordedEvent]]:
        """The matching events up to the present end, in batches. Raises `UnknownEvent` at the first unreadable one."""
        ...

    async def read_batch(
        self, *, after: int, batch: int = 500, wanted: EventFilter = EventFilter(), mark: bytes | None = None
    ) -> Batch:
        """The next matching events after a position. At the log's end it is empty and stands at `after`.

        Raises `UnknownEvent` if the first of them is unreadable; a later one only ends the batch. Raises `LogSetBack` if the
        log ends before `after`, or the event there has another leaf hash than `mark`.
        """
        ...

    def read_sessions(
        self, *, since: datetime | None, until: datetime | None, batch: int = 200
    ) -> AsyncIterator[list[list[RecordedEvent]]]:
        """All events of each session that began from `since` on and before `until` (UTC), by stream id, in batches.

        Looks at personal data are left out. Raises `UnknownEvent` at the first unreadable session, after yielding all before it.
        """
        ...

    async def ledger_id(self) -> UUID:
        """The identity of the ledger. A restored backup has it too."""
        ...

    async def policies(self) -> list[RecordedPolicy]:
        """The policies under which decisions were recorded, the latest first. Raises `UnknownPolicy`."""
        ...

    def arrival(self) -> asyncio.Event:
        """Set when the log may have grown since this call. A hint: it may be late, wrong or lost."""
        ...

    async def check(self) -> None:
        """Raise `ServiceError` if the log cannot be read or, as far as is known, not appended to."""
        ...

    async def head(self) -> int:
        """The last position; -1: the log is empty."""
        ...

    async def incarnation(self) -> UUID | None:
        """The id of the log's present life; `None`: its first."""
        ...

    async def begin_incarnation(self, incarnation: UUID) -> None:
        """See `Events.begin_incarnation`."""
        ...
