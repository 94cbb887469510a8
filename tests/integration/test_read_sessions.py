"""Whole sessions are read by stream id, in batches."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.reveal import Reveal
from tests import lives, logs
from tests.integration.test_unknown_events import newer_release_writes
from tests.unit.samples import request

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def sessions(number: int) -> list[list[RecordedEvent]]:
    """Sessions that began one an hour, in two months."""
    made: list[list[RecordedEvent]] = []
    for hour in range(number):
        stream_id = logs.new_stream(BEGAN + (hour - number // 2) * HOUR)
        made.append(lives.recorded_life(stream_id, hour, first_position=sum(map(len, made))))
    return made


async def read(store: PostgresEventStore, batch: int = 3, **given: Any) -> list[list[list[RecordedEvent]]]:
    both: dict[str, Any] = {"since": None, "until": None, **given}
    return [found async for found in store.read_sessions(**both, batch=batch)]


@pytest.mark.parametrize("number", [0, 1, 3, 4, 7])
async def test_each_session_is_read_whole_and_once(ledger_url: str, store: PostgresEventStore, number: int) -> None:
    written = sessions(number)
    await logs.write_recorded(ledger_url, written)

    batches = await read(store)

    assert [history for batch in batches for history in batch] == written
    assert [len(batch) for batch in batches] == [3] * (number // 3) + [number % 3] * (number % 3 > 0)


async def test_sessions_are_chosen_by_when_they_began(ledger_url: str, store: PostgresEventStore) -> None:
    written = sessions(8)
    await logs.write_recorded(ledger_url, written)

    async def numbers(**given: datetime) -> list[int]:
        return [written.index(history) for batch in await read(store, **given) for history in batch]

    assert await numbers(since=BEGAN) == [4, 5, 6, 7]
    assert await numbers(until=BEGAN) == [0, 1, 2, 3]
    assert await numbers(since=BEGAN - HOUR, until=BEGAN + HOUR) == [3, 4]
    assert await numbers(since=BEGAN + timedelta(microseconds=1)) == [5, 6, 7]
    assert await numbers(until=BEGAN + timedelta(microseconds=1)) == [0, 1, 2, 3, 4]
    assert await numbers(since=datetime(1960, 1, 1, tzinfo=UTC)) == [*range(8)]


async def test_looks_at_personal_data_are_left_out(new_ledger: Any) -> None:
    async with new_ledger() as ledger:
        opened = [await ledger.open_session(request())]
        for _ in range(5):
            await ledger.history(opened[0].id, reveal=Reveal(reason="tests", by="tests"))
        opened.append(await ledger.open_session(request()))

        # Batches of one: none of them ends at a look.
        found = [
            history
            async for batch in ledger._adapters.store.read_sessions(since=None, until=None, batch=1)
            for history in batch
        ]

        assert [history[0].stream_id for history in found] == [session.id for session in opened]
        assert found == [await ledger.history(session.id) for session in opened]


async def test_an_unknown_event_is_reported_after_the_sessions_before_it(
    ledger_url: str, store: PostgresEventStore
) -> None:
    written = sessions(5)
    await logs.write_recorded(ledger_url, written)
    broken = written[3][0].stream_id
    await newer_release_writes(ledger_url, broken)
    seen: list[UUID] = []

    async def see() -> None:
        async for batch in store.read_sessions(since=None, until=None, batch=4):
            seen.extend(history[0].stream_id for history in batch)

    with pytest.raises(UnknownEvent, match=f"stream {broken}, version {len(written[3]) + 1}: "):
        await see()
    assert seen == [history[0].stream_id for history in written[:3]]


async def test_the_ledger_has_an_identity(new_ledger: Any) -> None:
    async with new_ledger() as one, new_ledger() as other:
        assert await one.events.ledger_id() == await other.events.ledger_id()
