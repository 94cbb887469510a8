"""An older backup is restored under running processes: readers that are ahead of the log stop, and skip nothing."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import pytest

from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import LogSetBack, ServiceUnreachable
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.recorded import EventFilter, RecordedEvent
from guestledger.engine.operations.consume import ConsumerOptions
from tests.backups import Backup
from tests.integration.conftest import NewLedger
from tests.unit.samples import request

PACE = ConsumerOptions(poll_ms=20)
BEFORE, LOST = 3, 4


@pytest.fixture
async def ledger(database_url: str, new_ledger: NewLedger) -> AsyncIterator[Ledger]:
    """A ledger in a database of the test's own, which can be replaced."""
    async with new_ledger() as opened:
        yield opened


async def accept(ledger: Ledger, number: int) -> None:
    for _ in range(number):
        await ledger.accept(request())


@pytest.mark.parametrize("regrown", [0, LOST, 2 * LOST], ids=["shorter", "as long", "longer"])
async def test_a_tail_stops_if_a_restored_backup_lacks_what_it_has_read(
    ledger: Ledger, database_url: str, regrown: int
) -> None:
    await accept(ledger, BEFORE)
    async with Backup(database_url) as backup:
        await accept(ledger, LOST)
        batches = ledger.events.tail()
        read = await anext(batches)
        assert read.position == BEFORE + LOST - 1
        await backup.restore()
        await accept(ledger, regrown)

        with pytest.raises(LogSetBack) as caught:
            await anext(batches)

    assert (caught.value.position, caught.value.head) == (BEFORE + LOST - 1, BEFORE + regrown - 1)


@pytest.mark.parametrize("wanted", [EventFilter(), EventFilter(types=("SessionCreated",))], ids=["all", "filtered"])
async def test_a_consumer_ahead_of_a_restored_log_stops_until_it_is_set_back(
    ledger: Ledger, database_url: str, wanted: EventFilter, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    async def handle(events: Sequence[RecordedEvent]) -> None:
        seen.extend(recorded.position for recorded in events)

    def consume() -> asyncio.Task[None]:
        return asyncio.create_task(ledger.events.consume("warehouse", handle, wanted=wanted, options=PACE))

    async def has_read(position: int) -> None:
        while not any(row.position == position for row in await ledger.events.consumers()):
            await asyncio.sleep(0.02)

    consuming = consume()
    await accept(ledger, BEFORE)
    await has_read(BEFORE - 1)
    async with Backup(database_url) as backup:
        await accept(ledger, LOST)
        await has_read(BEFORE + LOST - 1)
        await backup.restore()
        await accept(ledger, 2 * LOST)
        for stopped in (consuming, consume()):  # a restart does not help
            with pytest.raises(LogSetBack, match="consumer 'warehouse' is ahead of the log"):
                await stopped
        [row] = await ledger.events.consumers()
        assert (row.position, row.ahead_at, row.running) == (BEFORE - 1, BEFORE + LOST - 1, False)
        assert "consumer 'warehouse' is ahead of the log" in caplog.text
        seen.clear()

        assert await ledger.events.set_consumer_back("warehouse")
        consuming = consume()
        await has_read(BEFORE + 2 * LOST - 1)

    consuming.cancel()
    await asyncio.wait([consuming])
    assert seen == ([] if wanted.types else list(range(BEFORE, BEFORE + 2 * LOST)))


@pytest.mark.parametrize("outage", [True, False], ids=["no database", "a lost lease"])
async def test_a_consumer_is_not_called_set_back_if_its_checkpoint_did_not_move(
    ledger: Ledger, outage: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    whole = PostgresConsumers.move

    async def handle(events: Sequence[RecordedEvent]) -> None:
        seen.extend(recorded.position for recorded in events)

    async def fail(*_: object) -> bool:
        monkeypatch.setattr(PostgresConsumers, "move", whole)
        if outage:
            raise ServiceUnreachable("database", Cause.CONNECTION_LOST)
        return False

    async def has_read(number: int) -> None:
        while len(seen) < number:
            await asyncio.sleep(0.02)

    monkeypatch.setattr(PostgresConsumers, "move", fail)
    await accept(ledger, BEFORE)
    consuming = asyncio.create_task(ledger.events.consume("warehouse", handle, options=PACE))
    await has_read(2 * BEFORE)
    while [row.position for row in await ledger.events.consumers()] != [BEFORE - 1]:
        await asyncio.sleep(0.02)
    assert "was set back" not in caplog.text

    await ledger.events.set_consumer_back("warehouse", 0)
    await accept(ledger, 1)
    await has_read(3 * BEFORE)
    assert re.search(r"consumer warehouse was set back from position \d+ to 0", caplog.text)
    consuming.cancel()
    await asyncio.wait([consuming])


async def test_reading_on_from_a_position_behind_the_end_of_the_log_fails(ledger: Ledger) -> None:
    await accept(ledger, BEFORE)
    with pytest.raises(LogSetBack):
        async for _ in ledger.events.read(after=BEFORE):
            pass


async def test_a_position_kept_with_its_mark_shows_that_the_log_was_set_back(ledger: Ledger, database_url: str) -> None:
    await accept(ledger, BEFORE)  # the first one makes the vault's first key
    async with Backup(database_url) as backup:
        await accept(ledger, LOST)
        kept = await anext(ledger.events.tail())
        await backup.restore()
        await accept(ledger, LOST + 1)

        with pytest.raises(LogSetBack):
            await anext(ledger.events.tail(after=kept.position, mark=kept.mark))


@pytest.mark.slow
async def test_a_new_incarnation_stops_every_consumer_until_it_is_set_back(ledger: Ledger) -> None:
    assert await ledger.events.incarnation() is None
    consuming = asyncio.create_task(ledger.events.consume("warehouse", _ignore, options=PACE))
    await accept(ledger, BEFORE)
    while [row.position for row in await ledger.events.consumers()] != [BEFORE - 1]:
        await asyncio.sleep(0.02)

    incarnation = await ledger.events.begin_incarnation()

    assert await ledger.events.incarnation() == incarnation
    await accept(ledger, 1)
    with pytest.raises(LogSetBack):
        await consuming
    assert await ledger.events.set_consumer_back("warehouse", 0)
    [row] = await ledger.events.consumers()
    assert (row.position, row.ahead_at) == (0, None)
    assert not await ledger.events.set_consumer_back("nobody")


async def _ignore(_events: Sequence[RecordedEvent]) -> None: ...
