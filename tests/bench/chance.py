"""`guestledger open` at a server that answers 2 % of all requests with 429, whatever the rate, and asks for a second of pause.

With the scope `quota` each of these 429s stops everybody; with `auto` only its own session, once that was seen. Beside both,
the same command at the same server without 429s: what the machine can do. The start of the process is part of each figure.
"""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.limits.feedback import ThrottleScope
from tests.bench.figures import Figure
from tests.e2e import guests
from tests.e2e.command import PIPE, environment, started

REQUESTS = 2_000
CONCURRENCY = 64
SHARE = 0.02
LEAST = {ThrottleScope.QUOTA: 30, ThrottleScope.AUTO: 300}
"""Sessions per second that are demanded."""


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The rate of each scope beside the rate without 429s."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    url = make_url(url).set(username=await runtime_login(url, "guestledger")).render_as_string(hide_password=False)
    best = await _rate(url, ThrottleScope.AUTO, 0)
    yield Figure(name=f"open --concurrency {CONCURRENCY}, no 429", value=best, unit="sessions/s")
    for scope, least in LEAST.items():
        rate = await _rate(url, scope, SHARE)
        yield Figure(
            name=f"open --concurrency {CONCURRENCY}, {SHARE:.0%} of 429, scope {scope} (limit {least})",
            value=rate,
            unit="sessions/s",
            against="no 429",
            ratio=rate / best,
        )


async def _rate(url: str, scope: ThrottleScope, share: float) -> float:
    async with Simulator(SimulatorConfig(throttle_share=share, retry_after_s=1)) as simulator:
        env = environment(url, simulator, throttle_scope=scope)
        lines = "".join(f"{json.dumps(guests.guest(number))}\n" for number in range(REQUESTS))
        began = time.perf_counter()
        async with started("open", "--concurrency", str(CONCURRENCY), "-", env=env, stdin=PIPE) as process:
            out, err = await process.communicate(lines.encode())
        seconds = time.perf_counter() - began
    active = sum(json.loads(line)["status"] == "active" for line in out.splitlines())
    assert (process.returncode, active) == (0, REQUESTS), err.decode()
    return REQUESTS / seconds
