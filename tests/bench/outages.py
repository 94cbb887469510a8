"""Sessions opened per second before and after ten immediate stops of PostgreSQL.

5,000 sessions are opened without a pause, 64 at a time. Each stop is `pg_ctl stop -m immediate`, and the server is restarted
as soon as it has ended. Three tenths of the sessions are opened before the first stop and about as many after the last one.
The ratio compares both over all rounds, since a round measures two seconds at most at each end. The rate afterwards starts
with the first session opened after the last restart; how long that one took is a figure of its own.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.ledger import Ledger
from tests.bench.figures import Figure
from tests.e2e import raw_log
from tests.keys import KEY
from tests.postgres import crash

SESSIONS = 5_000
WARM_UP = 500
STOPS = 10
FIRST, LAST = SESSIONS * 3 // 10, SESSIONS * 7 // 10
ROUNDS = 5
CONCURRENCY = 64
LIMIT = 0.9


class Load:
    """Sessions being opened, and when each was."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.done: list[float] = []

    async def open(self, sessions: int) -> None:
        """Open so many sessions. Raises where one could not be opened."""
        left = iter(range(sessions))

        async def caller() -> None:
            for _ in left:
                session = await self._ledger.open_session(_request())
                assert session.status == "active", session.cause
                self.done.append(time.perf_counter())

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONCURRENCY):
                tasks.create_task(caller())

    async def reached(self, sessions: int) -> None:
        """Return as soon as so many are open."""
        while len(self.done) < sessions:
            await asyncio.sleep(0.001)


class Round(NamedTuple):
    """Sessions a second before the first stop, and after the last restart; and how long the first of these took."""

    before: float
    after: float
    back_ms: float


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The rate after the last restart, over that before the first stop: of several rounds, for each lasts a few seconds."""
    rounds = []
    for number in range(ROUNDS):
        server = data_dir / str(number)
        try:
            rounds.append(await _round(server))
        finally:
            await stop_embedded(server)
    yield Figure(
        name=f"open sessions, after {STOPS} immediate stops of PostgreSQL",
        value=median(one.after for one in rounds),
        unit="sessions/s",
        against=f"before the first stop, at least {LIMIT}",
        ratio=sum(one.after for one in rounds) / sum(one.before for one in rounds),
    )
    yield Figure(
        name="open sessions, before the first stop", value=median(one.before for one in rounds), unit="sessions/s"
    )
    yield Figure(
        name="from PostgreSQL's return to the next session",
        value=median(one.back_ms for one in rounds),
        unit="ms",
    )


async def _round(data_dir: Path) -> Round:
    async with Simulator(keep_requests=0) as simulator:
        settings = Settings(
            encryption_key=KEY,
            data_dir=data_dir,
            cxone_url=simulator.url,
            cxone_client_id=simulator.client_id,
            cxone_client_secret=simulator.client_secret,
            webhook_url=simulator.webhook_url,
            webhook_allow_private=True,
        )
        async with connect(settings) as ledger:
            await Load(ledger).open(WARM_UP)
            began, load = time.perf_counter(), Load(ledger)
            opening = asyncio.create_task(load.open(SESSIONS))
            for stop in range(STOPS):
                await load.reached(FIRST + (LAST - FIRST) * stop // (STOPS - 1))
                crash(data_dir)
                url = await start_embedded(data_dir)
            back = time.perf_counter()
            await opening
            while await ledger.scheduler.unfinished():
                await asyncio.sleep(0.01)
        await _check(url, simulator)
    after = [at for at in load.done if at > back]
    return Round(
        before=FIRST / (load.done[FIRST - 1] - began),
        after=(len(after) - 1) / (after[-1] - after[0]),
        back_ms=(after[0] - back) * 1_000,
    )


async def _check(url: str, simulator: Simulator) -> None:
    """Nothing was lost and nothing done twice."""
    counts = await raw_log.counts(url)
    assert counts["SessionCreated"] == counts["CreationAttempted"] == SESSIONS + WARM_UP, counts
    made, known = raw_log.remote_sessions(simulator), await raw_log.known_sessions(url)
    assert made == known, f"{made - known} are not known, {known - made} were never made"


def _request() -> GuestRequest:
    return GuestRequest(
        channel_id="ch_bench",
        ip_address="203.0.113.7",
        user_agent="Mozilla/5.0 (X11; Linux x86_64) bench",
        timestamp="2024-05-20T14:21:59Z",
        consent=GuestConsent(data_processing=True, gdpr_compliant=True),
    )
