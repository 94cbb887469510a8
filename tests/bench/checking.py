"""`guestledger replay --check` over whole logs: sessions per second of one process, and memory.

The logs hold 10,000 and `BENCH_SESSIONS` sessions (default 100,000) of about seven events each: consent, look-up, attempts, webhook,
expiry and purge, some with throttles and failures. Each check is a process of its own. The rate is of the processor time of that
process, from its start to its end: the database has a core of its own.
"""

import asyncio
import itertools
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from guestledger.adapters.cli import main as command
from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.log.policies import PolicyRecord
from guestledger.engine.log.recorded import RecordedEvent
from tests import lives, logs
from tests.bench.figures import Figure
from tests.bench.projections import peak_mb
from tests.postgres import as_administrator

FEW = 10_000
SESSIONS = int(os.environ.get("BENCH_SESSIONS", "100000"))
TEMPLATES = 500
LIMIT = 3_000
"""Sessions a second on one core, at least."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Rates and memory at both sizes; then a check of the larger log in two processes."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    await _record_policy(url)
    await logs.write_recorded(url, _histories(0, FEW))
    few = await _check(url)
    await logs.write_recorded(url, _histories(FEW, SESSIONS))
    many = await _check(url)
    rate = SESSIONS / many.cpu_seconds
    yield Figure(
        name=f"check of {SESSIONS:,} sessions, one core",
        value=rate,
        unit="sessions/s",
        against=f"limit {LIMIT:,}",
        ratio=rate / LIMIT,
    )
    rate = SESSIONS / many.seconds
    yield Figure(
        name="the same, by the clock on the wall",
        value=rate,
        unit="sessions/s",
        against=f"limit {LIMIT:,}",
        ratio=rate / LIMIT,
    )
    yield Figure(name=f"peak memory at {FEW:,} sessions", value=few.peak_mb, unit="MB")
    yield Figure(
        name=f"peak memory at {SESSIONS:,} sessions",
        value=many.peak_mb,
        unit="MB",
        against=f"that at {FEW:,}",
        ratio=many.peak_mb / few.peak_mb,
    )
    two = await _check(url, "--jobs", "2")
    yield Figure(
        name="check of the same with --jobs 2",
        value=SESSIONS / two.seconds,
        unit="sessions/s",
        against="one process",
        ratio=many.seconds / two.seconds,
    )


async def _record_policy(url: str) -> None:
    connection = await logs.connect(url)
    await PolicyRecord("guestledger", lives.POLICY).write(connection, -1, datetime.now(UTC))
    await connection.close()


def _histories(first: int, end: int) -> Iterator[list[RecordedEvent]]:
    """The sessions with these numbers, one every two seconds up to now, copied from a few hundred lives."""
    now, position = datetime.now(UTC), 0
    templates = [lives.recorded_life(logs.new_stream(now), seed) for seed in range(TEMPLATES)]
    for number, life in zip(range(end), itertools.cycle(templates), strict=False):
        if number >= first:
            began = now - timedelta(seconds=2 * (SESSIONS - number))
            yield lives.copied(life, logs.new_stream(began), position)
        position += len(life)


async def _check(url: str, *options: str) -> Checked:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.checking", "replay", "--check", "--json", *options),
        env={**os.environ, "GUESTLEDGER_DATABASE_URL": as_administrator(url), "GUESTLEDGER_ALLOW_OWNER": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    began = time.perf_counter()
    out, _ = await process.communicate()
    seconds = time.perf_counter() - began
    report, spent = out.splitlines()
    assert msgspec.json.decode(report)["first"] is None, report
    assert process.returncode == 0
    return msgspec.structs.replace(msgspec.json.decode(spent, type=Checked), seconds=seconds)


def main() -> None:
    """Run the command, then print what it took."""
    try:
        command.main()
    finally:
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = Checked(seconds=0, cpu_seconds=used.ru_utime + used.ru_stime, peak_mb=peak_mb())
        sys.stdout.buffer.write(msgspec.json.encode(spent) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
