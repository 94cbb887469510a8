"""A bare asyncpg loop: the same rows into the same table and indexes, with `unnest` in batches of 200.

Rows are encoded and hashed as the engine does it, but the loop already has their streams, versions and positions: it checks
no version, takes no lock, writes no due step, and nobody waits for an append.

    python -m tests.bench.bare URL
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from guestledger.adapters.clock import SystemClock
from guestledger.engine.log.codec import encode
from guestledger.engine.log.merkle import leaf_hash
from tests.bench.appending import event_of
from tests.bench.peers.rounds import answer
from tests.logs import connect

BATCH = 200

_INSERT = """
    INSERT INTO bare_events
    SELECT stream_id, version, position, event_type, schema_version, recorded_at, correlation_id, causation_id, actor,
           data::json, leaf_hash
      FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::smallint[], $6::timestamptz[], $7::text[],
                  $8::uuid[], $9::text[], $10::text[], $11::bytea[])
        AS new(stream_id, version, position, event_type, schema_version, recorded_at, correlation_id, causation_id, actor,
               data, leaf_hash)"""
_clock = SystemClock()
_positions = count()


def rows(lifecycles: int) -> Iterator[tuple[Any, ...]]:
    """Five rows of each lifecycle."""
    for _ in range(lifecycles):
        stream_id = _clock.new_id()
        for version in range(1, 6):
            now = _clock.now()
            row = {
                "stream_id": stream_id,
                "version": version,
                "event_type": "CreationThrottled",
                "schema_version": 1,
                "recorded_at": now,
                "correlation_id": str(stream_id),
                "causation_id": _clock.new_id(),
                "actor": "bench",
                "data": encode(event_of(now, version)),
            }
            leaf = leaf_hash(**row)
            yield (*list(row.values())[:2], next(_positions), *list(row.values())[2:], leaf)


async def insert(connection: Any, lifecycles: int) -> list[float]:
    """Insert them; returns the seconds of each batch."""
    seconds = []
    made = rows(lifecycles)
    while batch := list(islice(made, BATCH)):
        began = time.perf_counter()
        await connection.execute(_INSERT, *map(list, zip(*batch, strict=True)))
        seconds.append(time.perf_counter() - began)
    return seconds


def main(url: str) -> None:
    with asyncio.Runner() as runner:
        connection = runner.run(connect(url))
        runner.run(connection.execute("CREATE TABLE bare_events (LIKE guestledger.events INCLUDING INDEXES)"))
        answer(lambda lifecycles: runner.run(insert(connection, lifecycles)))
        runner.run(connection.close())


if __name__ == "__main__":
    main(*sys.argv[1:])
