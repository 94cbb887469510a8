"""From the commit of an event to a reader in another process, in milliseconds.

The reader follows the log with `tail` on its own connection; events are appended one at a time. The clock starts when the
append returns, which is its commit, and stops when the reader has the event. Both use the machine's monotonic clock.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from guestledger.adapters.clock import SystemClock
from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.operations.tail import tail
from tests.bench.appending import append_of
from tests.bench.figures import Figure
from tests.event_stores import open_store

EVENTS = 500


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """p50 and p99, in ms."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    engine = open_engine(url, "guestledger")
    store = open_store(engine)
    command = (sys.executable, "-m", "tests.bench.tailing", url, str(EVENTS))
    reader = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert reader.stdout
    await reader.stdout.readline()
    committed, clock = {}, SystemClock()
    for _ in range(EVENTS):
        appended = await store.append(append_of(clock.new_id(), 0))
        committed[appended.position] = time.monotonic()
        await asyncio.sleep(0.01 + 0.02 * random.random())
    seen = json.loads(await reader.stdout.readline())
    await reader.wait()
    await store.close()
    await engine.dispose()
    late = sorted(max(0.0, at - committed[position]) for position, at in seen)
    name = "from commit to a reader who tails in another process"
    yield Figure(name=f"{name}, p50", value=late[len(late) // 2] * 1_000, unit="ms")
    yield Figure(name=f"{name}, p99", value=late[len(late) * 99 // 100] * 1_000, unit="ms")


async def _read(url: str, events: int) -> None:
    engine = open_engine(url, "guestledger")
    store = open_store(engine)
    seen: list[tuple[int, float]] = []
    batches = tail(store, SystemClock())
    store.arrival()
    await asyncio.sleep(1)  # by then it listens
    print("ready", flush=True)
    async for batch in batches:
        now = time.monotonic()
        seen += [(event.position, now) for event in batch.events]
        if len(seen) >= events:
            break
    print(json.dumps(seen), flush=True)
    await batches.aclose()
    await store.close()
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(_read(sys.argv[1], int(sys.argv[2])))
