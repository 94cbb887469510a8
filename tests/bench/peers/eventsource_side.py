"""`eventsource-py` 0.8.1: lifecycles of five appends through its PostgreSQL store, on asyncio.

Configured for speed, as its users can: the store is used directly, with no repository, bus or outbox above it and an
exact expected version; its engine's pool has a connection for each of the tasks; its schema is the one that it ships.

    python eventsource_side.py HOST PORT USER DATABASE CONCURRENCY POOL
"""

import asyncio
import sys
import time
from datetime import UTC, datetime
from uuid import uuid4

from eventsource import create_async_engine, register_event
from eventsource.adapters.postgresql.store import PostgreSQLEventStore
from eventsource.domain import StreamId
from eventsource.domain.event import DomainEvent
from eventsource.ports import ExpectedVersion
from rounds import answer, at_once

host, port, user, database, concurrency, pool = sys.argv[1:]


@register_event
class CreationThrottled(DomainEvent):
    event_type: str = "CreationThrottled"
    aggregate_type: str = "Session"
    at: datetime
    channel_id: str
    attempt: int
    status: int
    wait: dict[str, int | str]
    retry_at: datetime


engine = create_async_engine(
    f"postgresql+asyncpg://{user}@/{database}?host={host}&port={port}", pool_size=int(pool), max_overflow=0
)
store = PostgreSQLEventStore(engine, create_schema=True)


async def lifecycle(appends: list[float]) -> None:
    stream = StreamId(uuid4(), "Session")
    for version in range(5):
        now = datetime.now(UTC)
        event = CreationThrottled(
            aggregate_id=stream.aggregate_id,
            aggregate_version=version + 1,
            at=now,
            channel_id="ch_1",
            attempt=version + 1,
            status=429,
            wait={"ms": 1_250, "basis": "retry_after", "basis_ms": 1_000, "extra_ms": 250, "given": "1"},
            retry_at=now,
        )
        began = time.perf_counter()
        await store.append(stream, [event], ExpectedVersion.exact(version))
        appends.append(time.perf_counter() - began)


with asyncio.Runner() as runner:
    answer(lambda lifecycles: runner.run(at_once(lifecycle, lifecycles, int(concurrency))))
    runner.run(engine.dispose())
