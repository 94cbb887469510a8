"""The scheduler's steps per second beside DBOS and procrastinate, with a provider and a webhook that answer at once.

All sides use one server with `fsync` and `synchronous_commit` on. The provider and the webhook are in memory; store, leases
and scheduler are real, and projections are caught up when the clock stops. Each side is one process that does 64 things at a
time. The sides take turns, after a first round that does not count. Figures are medians of the rounds, ratios compare sides
of the same round.

*Sessions*: from the request to the recorded answer of the webhook, in four appends, each durable before the next:

1. `ConsentRecorded`, by one of 64 callers; the rest is done by the scheduler, in lanes of 64.
2. `ChannelValidated` (the channel is cached) and `CreationAttempted`, after a claim.
3. `SessionCreated`; the lease is released.
4. `WebhookSynced`, after another claim. The token's expiry stays due.

The peer is a DBOS workflow of three empty steps, which records its start, each step and its end. 64 workflows at a time are
started directly, which was slightly faster than DBOS's queue. Callers and lanes together may have three times 64 sessions
open; as many workflows made DBOS a few per cent faster at most. Two variants: *opened by their callers* makes the appends 1
and 2 as one, and 3, in the caller, so that one claim is left (`open_session`); *nothing projected* is the cost of scheduler
and store alone. The ratio falls by up to a third on a machine with other load.

*Empty steps*: one claim, one append: the webhook of sessions that were recorded before. The peer is an empty task of
procrastinate: one worker, 64 at a time, jobs deferred before.

*A step alone*: the expiry of a token, which calls nothing outside. Claim, read, decide and append, one step at a time.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.engine.domain.due import StepName
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.appends import Lease
from guestledger.engine.worker.session_work import SessionWork
from tests.bench.figures import Figure
from tests.bench.store import CONCURRENCY, Side, peer, side
from tests.bench.working import ledger_in_memory, new_id, prepare

ROUNDS = 5
SESSIONS = 3_000
WORKFLOWS = 300
STEPS = 5_000
JOBS = 1_000
CLAIMED = 100 * CONCURRENCY
ALONE = 500
POOLS = {"DBOS": "20", "procrastinate": "8"}
"""Connections of each peer. DBOS, with as many threads: its default, as 4 to 64 made no difference that stood out from the
noise. procrastinate: 8 served it better than 64."""
LEASE_MS = 10_000
LATER_MS = 3_600_000
OVERDUE = timedelta(seconds=-1)


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Claims, a step alone, and both comparisons."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    login = await runtime_login(url, "guestledger")
    own = make_url(url).set(username=login).render_as_string(hide_password=False)
    async with ledger_in_memory(own) as (ledger, _):
        for figure in await _alone(ledger):
            yield figure
        yield await _claims(ledger)
    for beside in (_beside_dbos, _beside_procrastinate):
        for figure in await beside(url, own):
            yield figure


def ours(url: str, what: str) -> Any:
    return side(sys.executable, "-m", "tests.bench.working", url, str(CONCURRENCY), what)


async def _claims(ledger: Ledger) -> Figure:
    """What is claimed is given back, for later and untimed, so that no claim has to pass by what was leased before."""
    await prepare(ledger, CLAIMED, delivered=True, expires_in=OVERDUE)
    due_steps, seconds = ledger.scheduler._due_steps, 0.0
    for _ in range(CLAIMED // CONCURRENCY):
        lease, began = _lease(), time.perf_counter()
        claims = (await due_steps.claim(lease, {StepName.EXPIRE_TOKEN: None}, CONCURRENCY)).claims
        seconds += time.perf_counter() - began
        assert len(claims) == CONCURRENCY
        await asyncio.gather(*(due_steps.release(lease.owner, claim.stream_id, LATER_MS) for claim in claims))
    return Figure(name=f"claims, {CONCURRENCY} at a time", value=CLAIMED / seconds, unit="claims/s")


async def _alone(ledger: Ledger) -> list[Figure]:
    """Each step by itself, with nothing else going on."""
    await prepare(ledger, ALONE, delivered=True, expires_in=OVERDUE)
    parts: dict[str, list[float]] = {"claim": [], "read": [], "decide and append": []}
    for _ in range(ALONE):
        moments = await _step(ledger)
        for part, began, ended in zip(parts.values(), moments, moments[1:], strict=False):
            part.append((ended - began) * 1_000)
    whole = sorted(map(sum, zip(*parts.values(), strict=True)))
    name = "a step alone"
    return [
        Figure(name=f"{name}, p50", value=whole[len(whole) // 2], unit="ms"),
        Figure(name=f"{name}, p99", value=whole[len(whole) * 99 // 100], unit="ms"),
        *(Figure(name=f"{name}: {part}, p50", value=median(ms), unit="ms") for part, ms in parts.items()),
    ]


async def _step(ledger: Ledger) -> tuple[float, ...]:
    lease = _lease()
    began = time.perf_counter()
    (claim,) = (await ledger.scheduler._due_steps.claim(lease, {StepName.EXPIRE_TOKEN: None}, 1)).claims
    claimed = time.perf_counter()
    histories = await ledger._adapters.store.read_streams([claim.stream_id])
    read = time.perf_counter()
    work = SessionWork.of(histories[claim.stream_id], actor="bench", lease=lease, claim=claim)
    await ledger._opener._executor.run(work, None, claim.step)
    assert work.counts == {"TokenExpired": 1}
    return began, claimed, read, time.perf_counter()


def _lease() -> Lease:
    return Lease(owner=new_id(), ms=LEASE_MS)


async def _beside_dbos(url: str, own: str) -> list[Figure]:
    async with AsyncExitStack() as stack:
        dbos = await stack.enter_async_context(peer("dbos_side.py", url, POOLS["DBOS"]))
        sides = {
            what: await stack.enter_async_context(ours(own, what)) for what in ("accepted", "opened", "unprojected")
        }
        rates = await _rounds({**sides, "DBOS": dbos}, {"DBOS": WORKFLOWS}, SESSIONS)
    peers = rates.pop("DBOS")
    name = f"sessions of three steps, {CONCURRENCY} at a time"
    return [
        _beside(name, "sessions/s", rates["accepted"], peers, "DBOS, 3 steps, at least 10"),
        _beside("the same, opened by their callers", "sessions/s", rates["opened"], peers, "DBOS, 3 steps"),
        _beside("the same, nothing projected", "sessions/s", rates["unprojected"], peers, "DBOS, 3 steps"),
        Figure(name="workflows of three empty steps by DBOS", value=median(peers), unit="workflows/s"),
    ]


async def _beside_procrastinate(url: str, own: str) -> list[Figure]:
    async with ours(own, "jobs") as steps, peer("procrastinate_side.py", url, POOLS["procrastinate"]) as peers:
        rates = await _rounds({"ours": steps, "procrastinate": peers}, {"procrastinate": JOBS}, STEPS)
    name = f"empty steps, {CONCURRENCY} at a time"
    return [
        _beside(name, "jobs/s", rates["ours"], rates["procrastinate"], "procrastinate"),
        Figure(name="empty tasks by procrastinate", value=median(rates["procrastinate"]), unit="jobs/s"),
    ]


async def _rounds(sides: dict[str, Side], sizes: dict[str, int], size: int) -> dict[str, list[float]]:
    """The rates of each side, which take turns; `size` is a round's where `sizes` names no other."""
    for name, one in sides.items():
        await one.run(sizes.get(name, size) // 4)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, one in sides.items():
            rates[name].append(await one.rate(sizes.get(name, size)))
    return rates


def _beside(name: str, unit: str, own: list[float], others: list[float], against: str) -> Figure:
    ratio = median(one / other for one, other in zip(own, others, strict=True))
    return Figure(name=name, value=median(own), unit=unit, against=against, ratio=ratio)
