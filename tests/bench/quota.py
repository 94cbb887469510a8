"""Eight workers at an API that accepts 50 creations a second: how well the shared rate limiter uses this quota.

The simulator counts creations per second from all workers, and its 429 asks for a wait of one second. It does not announce
its quota; the workers have to find it. The figures cover `SPAN_S` from `SETTLED_S` after the first request on, which is
longer than the limiter waits before it tries a higher rate.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.bench.figures import Figure
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import environment, started

QUOTA = 50
WORKERS = 8
SETTLED_S = 20.0
SPAN_S = 75.0
RETRY_AFTER_S = 1


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Goodput against the quota, the share that is throttled, and how many requests came before their time."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    url = make_url(url).set(username=await runtime_login(url, "guestledger")).render_as_string(hide_password=False)
    async with Simulator(SimulatorConfig(quota=QUOTA, retry_after_s=RETRY_AFTER_S)) as simulator:
        env = environment(url, simulator)
        await accept(url, map(guests.guest, range(int((SETTLED_S + SPAN_S) * QUOTA))))
        async with AsyncExitStack() as stack:
            for _ in range(WORKERS):
                await stack.enter_async_context(started("worker", env=env))
            while not raw_log.sent_creations(simulator):
                await asyncio.sleep(0.1)
            await asyncio.sleep(SETTLED_S + SPAN_S)
        for figure in await _figures(url, simulator):
            yield figure


async def _figures(url: str, simulator: Simulator) -> list[Figure]:
    sent = [request for request in simulator.requests if request.path == raw_log.SESSIONS_PATH]
    first = min(request.time for request in sent) + SETTLED_S
    settled = [request for request in sent if first <= request.time < first + SPAN_S]
    throttled = sum(request.status == 429 for request in settled)
    early = await raw_log.sent_too_early(url, simulator, RETRY_AFTER_S)
    of = f"{WORKERS} workers, quota of {QUOTA}/s"
    goodput = (len(settled) - throttled) / SPAN_S
    return [
        Figure(name=f"{of}: goodput", value=goodput, unit="sessions/s", against="quota", ratio=goodput / QUOTA),
        Figure(name=f"{of}: throttled (limit 1)", value=100 * throttled / len(settled), unit="%"),
        Figure(name=f"{of}: sent before Retry-After had passed (limit 0)", value=len(early), unit="requests"),
    ]
