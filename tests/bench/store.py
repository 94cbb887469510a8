"""Appends per second beside other event stores, all on one server with `fsync` and `synchronous_commit` on.

A lifecycle is five appends to one stream, each durable before the next, 64 lifecycles at a time. Its events hold no personal
data: the peers would not seal it. Each side is a process of its own. The sides take turns, round by round; figures are medians
of the rounds, ratios compare sides of the same round.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from tests.bench.figures import Figure
from tests.logs import connect

CONCURRENCY = 64
ROUNDS = 3
LIFECYCLES = 3_000
"""In a round of a fast side; the peers do as many as take them about a second or two."""
POOLS = {"eventsourcing": "16", "eventsource-py": "48"}
"""Connections of each peer: what served it best of 8 to 64 here, all of them together within the server's 100."""
LIMITS = {"eventsourcing": 15, "eventsource-py": 10, "bare unnest": 0.3}
PEERS = Path(__file__).parent / "peers"
PEER_PYTHON = Path(os.environ.get("BENCH_PYTHON", ".venv-bench/bin/python"))


class Round(msgspec.Struct, frozen=True):
    """What a side needed for some lifecycles: seconds in all, and of each append."""

    seconds: float
    appends: list[float]


class Side:
    """A side's program, waiting for its next round."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._in, self._out = process.stdin, process.stdout

    async def ready(self) -> None:
        assert await self._out.readline() == b"ready\n", "it did not start"

    async def run(self, lifecycles: int) -> Round:
        self._in.write(b"%d\n" % lifecycles)
        return msgspec.json.decode(await self._out.readline(), type=Round)

    async def rate(self, lifecycles: int) -> float:
        """Lifecycles a second."""
        return lifecycles / (await self.run(lifecycles)).seconds


@asynccontextmanager
async def side(*command: str) -> AsyncIterator[Side]:
    """The side's program, for as long as the block lasts."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 24)
    try:
        running = Side(process)
        await running.ready()
        yield running
    finally:
        assert process.stdin
        process.stdin.close()
        await process.wait()


def ours(url: str) -> Any:
    return side(sys.executable, "-m", "tests.bench.appending", url, str(CONCURRENCY))


def peer(program: str, url: str, *more: str) -> Any:
    if not PEER_PYTHON.exists():
        raise SystemExit(f"the peers are not installed in {PEER_PYTHON.parent.parent}: run `make bench`")
    parts = make_url(url)
    place = (str(parts.query["host"]), str(parts.query["port"]), str(parts.username), str(parts.database))
    return side(str(PEER_PYTHON), str(PEERS / program), *place, str(CONCURRENCY), *more)


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Ours beside the peers; four processes beside one; with and without another's long transaction."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    async with ours(url) as own:
        await own.run(LIFECYCLES)  # caches, plans, the first checkpoints of a new cluster
        for part in (_beside_peers, _four_processes, _beside_a_long_transaction):
            for figure in await part(url, own):
                yield figure


async def _beside_peers(url: str, own: Side) -> list[Figure]:
    async with AsyncExitStack() as stack:
        sides = {
            "eventsourcing": await stack.enter_async_context(
                peer("eventsourcing_side.py", url, POOLS["eventsourcing"], "no")
            ),
            "eventsourcing, unordered": await stack.enter_async_context(
                peer("eventsourcing_side.py", url, POOLS["eventsourcing"], "yes")
            ),
            "eventsource-py": await stack.enter_async_context(
                peer("eventsource_side.py", url, POOLS["eventsource-py"])
            ),
            "bare unnest": await stack.enter_async_context(side(sys.executable, "-m", "tests.bench.bare", url)),
        }
        lifecycles = {"bare unnest": 5 * LIFECYCLES}
        rates: dict[str, list[float]] = {"ours": [], **{name: [] for name in sides}}
        for one in sides.values():
            await one.run(100)
        for _ in range(ROUNDS):
            rates["ours"].append(await own.rate(LIFECYCLES))
            for name, one in sides.items():
                rates[name].append(await one.rate(lifecycles.get(name, 200)))
    own = rates.pop("ours")
    return [
        *(_beside(own, rates[name], f"{name}, at least {limit}") for name, limit in LIMITS.items()),
        *(Figure(name=f"the same by {name}", value=median(rate), unit="lifecycles/s") for name, rate in rates.items()),
    ]


def _beside(own: Sequence[float], others: Sequence[float], against: str) -> Figure:
    return Figure(
        name="lifecycles of 5 appends, 64 at a time",
        value=median(own),
        unit="lifecycles/s",
        against=against,
        ratio=median(one / other for one, other in zip(own, others, strict=True)),
    )


async def _four_processes(url: str, own: Side) -> list[Figure]:
    async with AsyncExitStack() as stack:
        four = [await stack.enter_async_context(ours(url)) for _ in range(4)]
        await asyncio.gather(*(one.run(200) for one in four))
        alone, together, appends = [], [], []
        for _ in range(ROUNDS):
            alone.append(await own.rate(LIFECYCLES))
            rounds = await asyncio.gather(*(one.run(LIFECYCLES // 2) for one in four))
            together.append(4 * (LIFECYCLES // 2) / max(one.seconds for one in rounds))
            appends += [seconds for one in rounds for seconds in one.appends]
    appends.sort()
    return [
        Figure(
            name="lifecycles by four processes together",
            value=median(together),
            unit="lifecycles/s",
            against="one process, at least 0.9",
            ratio=median(four / one for four, one in zip(together, alone, strict=True)),
        ),
        Figure(name="an append then, p50", value=appends[len(appends) // 2] * 1_000, unit="ms"),
        Figure(name="an append then, p99", value=appends[len(appends) * 99 // 100] * 1_000, unit="ms"),
    ]


async def _beside_a_long_transaction(url: str, own: Side) -> list[Figure]:
    without, beside = [], []
    other = await connect(url)
    try:
        for _ in range(ROUNDS):
            without.append(await own.rate(LIFECYCLES))
            async with other.transaction(isolation="repeatable_read"):
                # An id and a snapshot of its own, so that nothing that becomes dead from here on can be cleared away.
                await other.fetch("SELECT pg_current_xact_id(), count(*) FROM guestledger.head")
                beside.append(await own.rate(LIFECYCLES))
    finally:
        await other.close()
    return [
        Figure(
            name="lifecycles, another's transaction open all the while",
            value=median(beside),
            unit="lifecycles/s",
            against="without it, at least 0.8",
            ratio=median(one / other for one, other in zip(beside, without, strict=True)),
        )
    ]
