"""Reading the log in batches, with filters, and as it grows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.admin import migrate
from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from guestledger.adapters.postgres.log import notifier as arrivals, reader as log_reader
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.log.appends import StepChanges
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import Batch, EventFilter
from guestledger.engine.operations.tail import tail
from tests import logs
from tests.event_stores import open_store
from tests.integration.appends import a_lease, an_append, due
from tests.pacing import proposed
from tests.unit.samples import START

NEVER_MS = 3_600_000
PATIENCE = 60.0  # seconds until a test that hangs fails

Opened = Callable[[], PostgresEventStore]


@pytest.fixture
async def engine(ledger_url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(ledger_url, "guestledger")
    yield engine
    await engine.dispose()


@pytest.fixture
async def opened(engine: AsyncEngine) -> AsyncIterator[Opened]:
    """Opens stores, as several processes would."""
    made: list[PostgresEventStore] = []

    def one() -> PostgresEventStore:
        made.append(open_store(engine))
        return made[-1]

    yield one
    for store in made:
        await store.close()


def followed(store: PostgresEventStore, *, after: int = -1, poll_ms: int = NEVER_MS, **more: object) -> "Followed":
    return Followed(tail(store, SystemClock(), after=after, poll_ms=poll_ms, **more))  # type: ignore[arg-type]


class Followed:
    """What a tail yields up to a position."""

    def __init__(self, batches: AsyncIterator[Batch]) -> None:
        self.batches = batches
        self.positions: list[int] = []
        self.at = -1

    async def up_to(self, position: int) -> list[int]:
        async with asyncio.timeout(PATIENCE):
            while self.at < position:
                batch = await anext(self.batches)
                self.positions += [event.position for event in batch.events]
                self.at = batch.position
        return self.positions


async def test_an_empty_log_has_no_batches(opened: Opened) -> None:
    assert [batch async for batch in opened().read_all()] == []
    assert await opened().read_batch(after=-1) == Batch(events=(), position=-1)


async def test_a_filter_selects_exactly_the_wanted_events(ledger_url: str, opened: Opened) -> None:
    await logs.write(ledger_url, 1_000)
    store = opened()
    every = [event async for batch in store.read_all() for event in batch]
    since, until = every[100].recorded_at, every[900].recorded_at
    wanted = EventFilter(types=("SessionCreated", "WebhookSynced"), since=since, until=until)
    found = [event async for batch in store.read_all(batch=7, wanted=wanted) for event in batch]
    assert found == [event for event in every[100:900] if wire_name(event.event) in wanted.types]


async def test_a_reader_advances_past_events_that_do_not_match(ledger_url: str, opened: Opened) -> None:
    await logs.write(ledger_url, 1_000)
    store, at, batches = opened(), -1, []
    while (
        batch := await store.read_batch(after=at, batch=10, wanted=EventFilter(types=("TokenExpired",)))
    ).position > at:
        at = batch.position
        batches.append(batch)
    assert at == 999
    assert not any(batch.events for batch in batches)
    assert len(batches) == 1_000 // (10 * log_reader.SCAN_FACTOR), "one statement scans a part of the log"


async def test_a_full_batch_ends_at_its_last_event(ledger_url: str, opened: Opened) -> None:
    await logs.write(ledger_url, 1_000)
    batch = await opened().read_batch(after=-1, batch=3, wanted=EventFilter(types=("ConsentRecorded",)))
    assert len(batch.events) == 3
    assert batch.position == batch.events[-1].position


async def test_a_reader_crosses_missing_positions(ledger_url: str, opened: Opened) -> None:
    await logs.write(ledger_url, 5)
    await logs.write(ledger_url, 5, after=100_000)  # as where old partitions are detached
    found = [event.position async for batch in opened().read_all(batch=10) for event in batch]
    assert found == [*range(5), *range(100_001, 100_006)]


async def test_a_filter_for_an_unknown_event_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'SessionCreatd' is not an event type: one of .*SessionCreated"):
        EventFilter(types=("SessionCreatd",))


async def test_no_transaction_stays_open_between_batches(ledger_url: str, opened: Opened) -> None:
    await logs.write(ledger_url, 20)
    connection = await logs.connect(ledger_url)
    async for _ in opened().read_all(batch=5):
        states = await connection.fetch("SELECT state FROM pg_stat_activity WHERE application_name = 'guestledger'")
        assert {state for (state,) in states} == {"idle"}
    await connection.close()


async def test_a_tail_yields_present_and_then_new_events(ledger_url: str, opened: Opened) -> None:
    await logs.write(ledger_url, 25)
    store = opened()
    following = followed(store, after=4, batch=10)
    await following.up_to(24)
    await store.append(proposed(events=3))
    assert await following.up_to(27) == list(range(5, 28))


async def test_a_tail_wakes_up_for_an_append_in_its_own_process(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals.LogNotifier, "_listen_once", asyncio.Event().wait)
    store = opened()
    following = followed(store)
    waiting = asyncio.create_task(following.up_to(0))
    await store.append(proposed())
    assert await waiting == [0]
    waiting = asyncio.create_task(following.up_to(1))
    await asyncio.sleep(0.1)  # until it waits
    await store.append(proposed())
    assert await waiting == [0, 1]


async def test_a_tail_wakes_up_for_an_append_in_another_process(opened: Opened) -> None:
    writer, reader = opened(), opened()
    following = followed(reader)
    for position in range(20):
        waiting = asyncio.create_task(following.up_to(position))
        await writer.append(proposed())
        await waiting
    assert following.positions == list(range(20))


async def test_a_tail_without_hints_polls(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals.LogNotifier, "_wake", lambda _self: None)
    writer, reader = opened(), opened()
    following = followed(reader, poll_ms=20)
    for position in range(5):
        waiting = asyncio.create_task(following.up_to(position))
        await writer.append(proposed())
        await waiting
    assert following.positions == list(range(5))


async def test_a_filtered_tail_yields_empty_batches_with_its_position(opened: Opened) -> None:
    writer, reader = opened(), opened()
    following = followed(reader, wanted=EventFilter(types=("TokenExpired",)))
    await writer.append(proposed(events=4))
    assert await following.up_to(3) == []


async def test_many_appends_send_few_notifications(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0
    send = arrivals.driver_connection

    def counting(engine: AsyncEngine) -> object:
        nonlocal sent
        sent += 1
        return send(engine)

    monkeypatch.setattr(arrivals, "driver_connection", counting)
    monkeypatch.setattr(arrivals, "_COALESCE_SECONDS", PATIENCE)
    store = opened()
    for _ in range(50):
        await store.append(proposed())
    assert sent == 1


async def test_only_appends_that_leave_work_for_others_notify_at_once(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = asyncio.Semaphore(0)
    send = arrivals.driver_connection

    def counting(engine: AsyncEngine) -> object:
        sent.release()
        return send(engine)

    monkeypatch.setattr(arrivals, "driver_connection", counting)
    monkeypatch.setattr(arrivals, "_REST_SECONDS", PATIENCE)
    store = opened()
    later = START + timedelta(days=36_500)
    async with asyncio.timeout(PATIENCE / 2):
        await store.append(an_append())
        await sent.acquire()
        for leaving_none in (StepChanges(), due(later), due(lease=a_lease())):
            await store.append(an_append(steps=leaving_none))
            await asyncio.sleep(2 * arrivals._COALESCE_SECONDS)
        assert sent.locked(), "they wait for the next hint"
        await store.append(an_append(steps=due()))
        await sent.acquire()
        await asyncio.sleep(2 * arrivals._COALESCE_SECONDS)
        assert sent.locked(), "one for all of them"


async def test_listening_uses_no_place_of_the_pool(ledger_url: str) -> None:
    engine = open_engine(ledger_url, "guestledger", pool_size=1)
    store = open_store(engine)
    following = followed(store)
    for position in range(5):
        await store.append(proposed())
        await following.up_to(position)
    await store.close()
    await engine.dispose()
    connection = await logs.connect(ledger_url)
    left = """
        SELECT count(*) FROM pg_stat_activity WHERE application_name = 'guestledger' AND datname = current_database()"""
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(left):
            await asyncio.sleep(0.01)  # every connection gets closed
    await connection.close()


@pytest.mark.parametrize("poll_ms", [20, NEVER_MS], ids=["polling", "by hints"])
async def test_a_tail_survives_a_server_restart_without_gap_or_repeat(data_dir: Path, poll_ms: int) -> None:
    url = await start_embedded(data_dir)
    await migrate.upgrade(url)
    writing, reading = open_engine(url, "guestledger"), open_engine(url, "guestledger")
    writer, reader = (
        open_store(writing, patience=PATIENCE),
        open_store(reading),
    )
    done = asyncio.Event()
    ids: list[UUID] = []

    async def write() -> int:
        while not done.is_set():
            append = proposed()
            ids.append(append.stream_id)
            last = await writer.append(append)
        return last.position

    following = followed(reader, poll_ms=poll_ms)
    task = asyncio.create_task(write())
    await following.up_to(20)
    for _ in range(2):
        await stop_embedded(data_dir)
        await asyncio.sleep(0.3)
        await start_embedded(data_dir)
        await following.up_to(following.positions[-1] + 20)
    done.set()
    last = await task
    assert await following.up_to(last) == list(range(last + 1))
    assert len(ids) == last + 1
    for store, engine in ((writer, writing), (reader, reading)):
        await store.close()
        await engine.dispose()


async def test_times_in_a_filter_are_the_databases(opened: Opened) -> None:
    store = opened()
    first = await store.append(proposed())
    second = await store.append(proposed())
    microsecond = timedelta(microseconds=1)
    wanted = EventFilter(since=first.recorded_at + microsecond, until=second.recorded_at + microsecond)
    assert [event.position async for batch in store.read_all(wanted=wanted) for event in batch] == [second.position]
