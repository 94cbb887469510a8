"""An event that this release cannot read is reported with its position, and never skipped."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import pytest

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulated import simulated
from guestledger.adapters.simulator import SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.events import ChannelValidated
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log import upcasting as upcast
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.recorded import EventFilter, RecordedEvent
from guestledger.engine.operations.consume import Consumer, ConsumerOptions
from guestledger.engine.operations.tail import tail
from guestledger.engine.worker.step import Lane
from tests import logs
from tests.event_stores import open_store
from tests.keys import KEY
from tests.pacing import proposed
from tests.unit.samples import request

PATIENCE = 60.0  # seconds until a test that hangs fails


@pytest.fixture
async def store(ledger_url: str) -> AsyncIterator[PostgresEventStore]:
    engine = open_engine(ledger_url, "guestledger")
    store = open_store(engine)
    yield store
    await store.close()
    await engine.dispose()


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with (
        simulated(Settings(encryption_key=KEY, database_url=ledger_url), SimulatorConfig()) as settings,
        connect(settings, scheduler=False) as ledger,
    ):
        yield ledger


async def newer_release_writes(
    url: str, stream_id: UUID | None = None, event_type: str = "SessionTeleported", schema_version: int = 1
) -> None:
    """Append an event of a newer release to the stream (default: a new one)."""
    connection = await logs.connect(url)
    await connection.execute(
        """
        INSERT INTO guestledger.events (stream_id, version, position, event_type, schema_version, recorded_at,
                                        correlation_id, causation_id, actor, data, leaf_hash)
        SELECT $1, coalesce(max(version) FILTER (WHERE stream_id = $1), 0) + 1, coalesce(max(position), -1) + 1, $2, $3,
               clock_timestamp(), 'tests', $1, 'tests', '{}', ''
          FROM guestledger.events""",
        stream_id or uuid4(),
        event_type,
        schema_version,
    )
    await connection.execute(logs.END)
    await connection.close()


async def test_reading_a_stream_with_an_unknown_event_names_its_position(
    ledger_url: str, store: PostgresEventStore
) -> None:
    append = proposed(events=2)
    await store.append(append)
    await newer_release_writes(ledger_url, append.stream_id, "SessionCreated", 9)
    place = f"position 2, stream {append.stream_id}, version 3: event 'SessionCreated' with schema version 9"
    with pytest.raises(UnknownEvent, match=place) as caught:
        await store.read_stream(append.stream_id)
    assert (caught.value.position, caught.value.stream_id, caught.value.version) == (2, append.stream_id, 3)


async def test_read_all_stops_before_an_unknown_event(ledger_url: str, store: PostgresEventStore) -> None:
    await store.append(proposed(events=5))
    await newer_release_writes(ledger_url)
    await store.append(proposed(events=5))
    seen: list[int] = []

    async def read() -> None:
        async for batch in store.read_all(batch=4):
            seen.extend(event.position for event in batch)

    with pytest.raises(UnknownEvent, match="position 5, "):
        await read()
    assert seen == list(range(5))


async def test_a_tail_returns_the_events_before_an_unknown_one_and_then_raises(
    ledger_url: str, store: PostgresEventStore
) -> None:
    await store.append(proposed(events=5))
    await newer_release_writes(ledger_url)
    seen: list[int] = []

    async def read() -> None:
        async for batch in tail(store, SystemClock()):
            seen.extend(event.position for event in batch.events)

    with pytest.raises(UnknownEvent, match="position 5, "):
        await read()
    assert seen == list(range(5))


async def test_a_consumer_stops_before_an_unknown_event_and_others_continue(
    ledger_url: str, store: PostgresEventStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.append(proposed(events=5))
    await newer_release_writes(ledger_url)
    await store.append(proposed(events=5))
    engine = open_engine(ledger_url, "guestledger")
    checkpoints = PostgresConsumers(engine, "guestledger")
    seen: dict[str, list[int]] = {"all": [], "validated": []}
    options = ConsumerOptions(poll_ms=20, backoff=RetryPolicy(base_ms=1, cap_ms=20))

    def consumer(name: str, wanted: EventFilter) -> Consumer:
        async def handle(events: Sequence[RecordedEvent]) -> None:
            seen[name] += [event.position for event in events]

        clock = SystemClock()
        return Consumer(name, handle, store=store, checkpoints=checkpoints, clock=clock, wanted=wanted, options=options)

    wanted = {"all": EventFilter(), "validated": EventFilter(types=("ChannelValidated",))}
    tasks = [asyncio.create_task(consumer(*given).run()) for given in wanted.items()]
    async with asyncio.timeout(PATIENCE):
        while [row.position for row in await checkpoints.all()] != [4, 10]:
            await asyncio.sleep(0.01)
        while "consumer all cannot continue, and retries" not in caplog.text:
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await engine.dispose()
    assert seen == {"all": list(range(5)), "validated": [*range(5), *range(6, 11)]}
    assert "position 5, " in caplog.text


async def test_an_unreadable_session_does_not_stop_the_other_claims(
    ledger_url: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = [await ledger.accept(request()) for _ in range(9)]
    unreadable = sessions[4].id
    await newer_release_writes(ledger_url, unreadable)
    with pytest.raises(UnknownEvent, match=str(unreadable)):
        await ledger.session(unreadable)
    await ledger.scheduler._lanes.drain(Lane.CREATION, Counter())
    for session in sessions:
        if session.id != unreadable:
            assert (await ledger.session(session.id)).status == "active"
    assert f"session {unreadable} is left alone: position 9, " in caplog.text


async def test_an_unreadable_session_is_released_with_a_delay(ledger_url: str, ledger: Ledger) -> None:
    session = await ledger.accept(request())
    await newer_release_writes(ledger_url, session.id)
    await ledger.scheduler._lanes.drain(Lane.CREATION, Counter())
    connection = await logs.connect(ledger_url)
    (row,) = await connection.fetch(
        "SELECT owner, due_at > now() AS later FROM guestledger.due_steps WHERE step = 'validate_channel'"
    )
    await connection.close()
    assert tuple(row) == (None, True)


async def test_an_upcast_event_keeps_its_stored_text_and_hash(
    store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = proposed()
    await store.append(append)
    (before,) = await store.read_stream(append.stream_id)
    monkeypatch.setattr(ChannelValidated, "schema_version", 2)
    monkeypatch.setattr(upcast, "UPCASTERS", {("ChannelValidated", 1): lambda data: {**data, "status": "upcast"}})
    (after,) = await store.read_stream(append.stream_id)
    assert isinstance(after.event, ChannelValidated)
    assert after.event.status == "upcast"
    assert (after.data, after.leaf_hash) == (before.data, before.leaf_hash)
    assert after.leaf_hash == leaf_hash(
        stream_id=after.stream_id,
        version=after.version,
        event_type="ChannelValidated",
        schema_version=1,
        recorded_at=after.recorded_at,
        correlation_id=after.correlation_id,
        causation_id=after.causation_id,
        actor=after.actor,
        data=after.data,
    )
