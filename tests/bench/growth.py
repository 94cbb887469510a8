"""An append and the reading of a stream, in a small log and in a large one.

Two ledgers on one server: one of 100,000 events in this month, one of `BENCH_GROWTH` events (default 5,000,000) over three
years. Single appends and readings alternate between them, so that both see the same load of the machine. The streams that
are read are drawn from the whole log.
"""

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from statistics import median
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.recorded import RecordedEvent
from tests.bench.appending import append_of
from tests.bench.figures import Figure
from tests.event_stores import open_store
from tests.logs import connect

SMALL = 100_000
LARGE = int(os.environ.get("BENCH_GROWTH", "5000000"))
LIMIT = 1.3
TIMES = 2_000
"""So many appends, and so many readings, of each log."""

# Sessions of five attempts, their rows what the store itself would have written, letter for letter: `_checked` looks.
_FILL = """
    INSERT INTO "{schema}".events
    SELECT stream_id, version, (number - 1) * 5 + version - 1, 'CreationAttempted', 1, at, stream_id::text, causation_id,
           'bench', data::json,
           sha256('\\x00' || convert_to(format(
               '{{"actor":"bench","causation_id":"%s","correlation_id":"%s","data":%s,"event_type":"CreationAttempted",'
               '"recorded_at":"%s","schema_version":1,"stream_id":"%s","version":%s}}',
               causation_id, stream_id, data, written, stream_id, version), 'UTF8'))
      FROM (SELECT number, uuidv7(($2::int * (number - $1::int) / $1::int) * interval '1 month') AS stream_id
              FROM generate_series(1, $1::int) AS number OFFSET 0) AS streams,
           generate_series(1, 5) AS version,
           LATERAL (SELECT uuidv7() AS causation_id,
                           timestamptz '2024-05-20 14:22:00.000001Z' + number * interval '5 ms' AS at) AS made,
           LATERAL (SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS written) AS clock,
           LATERAL (SELECT format('{{"at":"%s","attempt":%s,"channel_id":"ch_1","idempotency_key":"%s",'
                                  '"request_hmac":"%s"}}', written, version, stream_id, repeat('0', 64)) AS data) AS event"""


class Log:
    """A ledger of so many events."""

    def __init__(self, engine: AsyncEngine, schema: str, streams: list[UUID]) -> None:
        self._engine = engine
        self._store = open_store(engine, schema)
        self._streams = streams
        self._new_id = SystemClock().new_id
        self.appends: list[float] = []
        self.readings: list[float] = []

    @classmethod
    async def filled(cls, url: str, events: int, months: int) -> "Log":
        """A log whose streams began in so many months, the last one included."""
        schema = f"of_{events}"
        await upgrade(url, schema)
        connection = await connect(url)
        await connection.execute("SET synchronous_commit = off")  # for what is not measured
        await connection.execute(
            f"""SELECT "{schema}".create_partition((date_trunc('month', now() AT TIME ZONE 'UTC') - ago * interval '1 month')::date)
                  FROM generate_series(1, $1::int) AS ago""",
            months,
        )
        await connection.execute(_FILL.format(schema=schema), events // 5, months, timeout=1_800)
        await connection.execute(
            f'INSERT INTO "{schema}".batches SELECT position, recorded_at FROM "{schema}".events', timeout=600
        )
        await connection.execute(f'VACUUM ANALYZE "{schema}".events, "{schema}".batches', timeout=600)
        streams = await connection.fetch(f'SELECT stream_id FROM "{schema}".events WHERE version = 1')
        await connection.execute("CHECKPOINT", timeout=600)
        await connection.close()
        log = cls(open_engine(url, schema), schema, [stream_id for (stream_id,) in streams])
        for recorded in await log._store.read_stream(random.choice(log._streams)):
            _check(recorded)
        return log

    async def close(self) -> None:
        await self._store.close()
        await self._engine.dispose()

    async def append(self) -> None:
        await _timed(self.appends, lambda: self._store.append(append_of(self._new_id(), 0)))

    async def read(self) -> None:
        stream_id = random.choice(self._streams)
        await _timed(self.readings, lambda: self._store.read_stream(stream_id))


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The p50 of an append and of reading a stream in the large log, over that in the small one."""
    url = await start_embedded(data_dir)
    small, large = logs = await Log.filled(url, SMALL, months=0), await Log.filled(url, LARGE, months=36)
    for log in logs:
        for _ in range(200):
            await log.append()
            await log.read()
        log.appends.clear()
        log.readings.clear()
    for _ in range(TIMES):
        for log in logs:
            await log.append()
            await log.read()
    for log in logs:
        await log.close()
    yield _figure("an append, p50", small.appends, large.appends)
    yield _figure("reading a stream, p50", small.readings, large.readings)


def _figure(name: str, small: list[float], large: list[float]) -> Figure:
    return Figure(
        name=f"{name}, log of {LARGE:,} events",
        value=median(large) * 1_000,
        unit="ms",
        against=f"log of {SMALL:,}, at most {LIMIT}",
        ratio=median(large) / median(small),
    )


async def _timed(seconds: list[float], call: Callable[[], Awaitable[object]]) -> None:
    began = time.perf_counter()
    await call()
    seconds.append(time.perf_counter() - began)


def _check(recorded: RecordedEvent) -> None:
    """The filling writes what the store would have."""
    written = leaf_hash(
        stream_id=recorded.stream_id,
        version=recorded.version,
        event_type="CreationAttempted",
        schema_version=1,
        recorded_at=recorded.recorded_at,
        correlation_id=recorded.correlation_id,
        causation_id=recorded.causation_id,
        actor=recorded.actor,
        data=recorded.data,
    )
    assert written == recorded.leaf_hash
