"""The console's session page in a log of 1,000,000 events, against a limit of 50 ms: the server's time, without a network.

The sessions are drawn from the whole log: active ones, and ones that wait behind a closed limiter. The overview is measured beside
it, without a limit: it counts the last day.
"""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from guestledger.adapters.api.access import Caller
from guestledger.adapters.api.admission import ApiLimits
from guestledger.adapters.api.exchange import Request
from guestledger.adapters.doors import application
from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests import logs
from tests.bench.asking import EVENTS, LIMIT_MS, WAITING, fill
from tests.bench.figures import Figure
from tests.keys import KEY

TIMES = 200


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """p50 and p99 of each page."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    await logs.write(url, EVENTS - 4 * WAITING)
    await logs.write_throttled(url, WAITING, after=EVENTS - 4 * WAITING - 1)
    settings = Settings(database_url=url, encryption_key=KEY, cxone_url="http://127.0.0.1:9", allow_owner=True)
    async with connect(settings, scheduler=False) as ledger:
        await ledger.projections.catch_up()
        sessions = await fill(url, ledger)
        app = application(ledger, authenticate=_anybody, limits=ApiLimits(requests_per_second=1_000_000))

        async def get(path: str) -> None:
            response = await app.respond(Request(method="GET", path=path, headers={"host": "127.0.0.1"}))
            assert response.status == 200, response.body

        for status in ("active", "throttled"):
            ids = sessions[status]
            for figure in await _figures(
                f"session page, {status}", lambda ids=ids: get(f"/sessions/{random.choice(ids)}")
            ):
                yield figure
        for figure in await _figures("overview", lambda: get("/"), limit=None):
            yield figure


async def _anybody(_request: Request, _ledger: Ledger) -> Caller:
    return Caller(name="bench", roles=frozenset(Role))


async def _figures(name: str, ask: Callable[[], Awaitable[None]], limit: int | None = LIMIT_MS) -> list[Figure]:
    for _ in range(10):
        await ask()
    spent = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await ask()
        spent.append((time.perf_counter() - began) * 1_000)
    spent.sort()
    found = {"p50": spent[TIMES // 2], "p99": spent[TIMES * 99 // 100]}
    against = {} if limit is None else {"against": f"limit {limit} ms"}
    return [
        Figure(
            name=f"{name}, {share}", value=ms, unit="ms", **against, **({} if limit is None else {"ratio": ms / limit})
        )
        for share, ms in found.items()
    ]
