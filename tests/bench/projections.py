"""Catch-up, rebuild and verification of the projections: events per second, and memory.

The log holds `BENCH_EVENTS` events (default 1,000,000): sessions of five events each, 64 of them open at any time. Each task
runs in its own process, so that the peak memory is the task's alone.
"""

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from tests import logs
from tests.bench.figures import Figure

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
CATCH_UP = 30_000
"""Events a second that all three together have to take in at least."""
MEMORY = 250
"""MB that a rebuild may take at most."""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What a piece of work took."""

    seconds: float
    peak_mb: float


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Catch-up of all three together, and rebuild and verification of all three, one after the other."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    await logs.write(url, EVENTS)
    log = f"{EVENTS:,} events"
    caught_up = EVENTS / (await _apart("catch_up", url)).seconds
    yield Figure(
        name=f"catch-up of three projections, {log}",
        value=caught_up,
        unit="events/s",
        against=f"limit {CATCH_UP:,}",
        ratio=caught_up / CATCH_UP,
    )
    rebuilt = await _apart("rebuild", url)
    yield Figure(name=f"rebuild of the three in turn, {log}", value=EVENTS / rebuilt.seconds, unit="events/s")
    yield Figure(
        name="rebuild, peak memory",
        value=rebuilt.peak_mb,
        unit="MB",
        against=f"limit {MEMORY}",
        ratio=rebuilt.peak_mb / MEMORY,
    )
    verified = await _apart("verify", url)
    yield Figure(name=f"verification of the three in turn, {log}", value=EVENTS / verified.seconds, unit="events/s")
    yield Figure(name="verification, peak memory", value=verified.peak_mb, unit="MB")


async def _catch_up(read_models: PostgresReadModels) -> None:
    assert await read_models.catch_up() == EVENTS


async def _rebuild(read_models: PostgresReadModels) -> None:
    for name in PROJECTIONS:
        assert await read_models.rebuild(name, lambda _position: None) == 0


async def _verify(read_models: PostgresReadModels) -> None:
    for name in PROJECTIONS:
        assert (await read_models.verify(name, lambda _position: None)).is_same


WORK: Mapping[str, Callable[[PostgresReadModels], Awaitable[None]]] = {
    "catch_up": _catch_up,
    "rebuild": _rebuild,
    "verify": _verify,
}


async def _apart(name: str, url: str) -> Spent:
    command = (sys.executable, "-m", "tests.bench.projections", name, url)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{name} failed"
    return msgspec.json.decode(out, type=Spent)


async def _measured(name: str, url: str) -> Spent:
    engine = open_engine(url, "guestledger")
    began = time.perf_counter()
    await WORK[name](PostgresReadModels(engine, "guestledger"))
    seconds = time.perf_counter() - began
    await engine.dispose()
    return Spent(seconds=seconds, peak_mb=peak_mb())


def peak_mb() -> float:
    """The most memory that this process took."""
    # Not `ru_maxrss`, which begins with what the parent took.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1_024


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_measured(*sys.argv[1:]))))
