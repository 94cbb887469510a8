"""Following the log, on a fake store that does on purpose what a real one does rarely."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from guestledger.adapters.clock import SystemClock
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.log.recorded import Batch
from guestledger.engine.operations.tail import tail

NEVER_MS = 3_600_000
PATIENCE = 60.0  # seconds until a test that hangs fails


class Log:
    """A log that grows to `grows` during its first read and reports it at once; then `failures` reads fail."""

    def __init__(self, grows: int, failures: int = 0) -> None:
        self.position = -1
        self.grows = grows
        self.failures = failures
        self.next = asyncio.Event()

    def arrival(self) -> asyncio.Event:
        return self.next

    async def read_batch(self, *, after: int, **_more: Any) -> Batch:
        seen = self.position
        if seen < self.grows:
            self.position = self.grows
            waited_for, self.next = self.next, asyncio.Event()
            waited_for.set()
        elif self.failures:
            self.failures -= 1
            raise ServiceUnreachable("database", Cause.CONNECTION_LOST)
        return Batch(events=(), position=max(after, seen))


async def first(batches: AsyncIterator[Batch]) -> Batch:
    async with asyncio.timeout(PATIENCE):
        return await anext(batches)


async def test_a_tail_returns_at_once_if_the_log_grows_while_it_reads() -> None:
    batches = tail(Log(grows=5), SystemClock(), poll_ms=NEVER_MS)  # type: ignore[arg-type]
    assert (await first(batches)).position == 5


async def test_a_tail_waits_for_a_database_outage_to_end(caplog: pytest.LogCaptureFixture) -> None:
    batches = tail(Log(grows=5, failures=3), SystemClock(), poll_ms=NEVER_MS)  # type: ignore[arg-type]
    assert (await first(batches)).position == 5
    assert caplog.messages == ["the log cannot be read now: the database cannot be used: connection_lost"] * 3


class Marked:
    """A log of these batches, in order; then it does not grow. `asked` holds the mark of each read."""

    def __init__(self, *batches: Batch) -> None:
        self.batches = list(batches)
        self.asked: list[bytes | None] = []

    def arrival(self) -> asyncio.Event:
        return asyncio.Event()

    async def read_batch(self, *, mark: bytes | None, **_more: Any) -> Batch:
        self.asked.append(mark)
        return self.batches.pop(0)


@pytest.mark.parametrize(
    ("batches", "asked"),
    [
        pytest.param([(5, b"5"), (7, None), (8, b"8")], [None, b"5", None], id="the log grew"),
        pytest.param([(5, b"5"), (5, None), (8, b"8")], [None, b"5", b"5"], id="it did not"),
    ],
)
async def test_a_tail_keeps_no_mark_of_an_earlier_position(
    batches: list[tuple[int, bytes | None]], asked: list[bytes | None]
) -> None:
    log = Marked(*(Batch(events=(), position=position, mark=mark) for position, mark in batches))
    async with asyncio.timeout(PATIENCE):
        async for found in tail(log, SystemClock(), poll_ms=1):  # type: ignore[arg-type]
            if found.position == 8:
                break
    assert log.asked == asked
