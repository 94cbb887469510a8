"""Sessions opened per second, beside a bare aiohttp client that makes the same HTTP calls and stores nothing.

Both open as many sessions at the same simulator, which runs in its own process. The sides take turns, round by round. A
session counts once it is created and its webhook is accepted. The engine also commits every event to disk, and its
projections are caught up when the clock stops.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import msgspec

from guestledger.adapters.cli.running import collect_garbage_rarely
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.ledger import Ledger
from tests.bench.figures import Figure
from tests.keys import KEY

SESSIONS = 2_000
CONCURRENCY = 64
ROUNDS = 5

REQUEST = GuestRequest(
    channel_id="ch_bench",
    ip_address="203.0.113.7",
    user_agent="Mozilla/5.0 (X11; Linux x86_64) bench",
    timestamp="2024-05-20T14:21:59Z",
    consent=GuestConsent(data_processing=True, gdpr_compliant=True),
)
_CREATION = {
    "channelId": "ch_bench",
    "guest": {
        "metadata": {"source": "web", "campaign": "organic", "deviceType": "desktop"},
        "consent": {
            "marketing": False,
            "dataProcessing": True,
            "gdprCompliant": True,
            "consentTimestamp": "2024-05-20T14:22:00Z",
        },
    },
    "attributes": {"visitorFingerprint": "0" * 64, "initializationLatency": 0, "retryCount": 0},
}


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The engine's rate, the bare client's, and the guest's wait; medians over the rounds."""
    collect_garbage_rarely()  # as `guestledger open` and `guestledger worker` do; for both sides
    async with (
        simulator() as place,
        connect(settings_at(place, data_dir=data_dir)) as ledger,
        aiohttp.ClientSession() as http,
    ):
        bare = await _bare_client(http, place)
        waits: list[float] = []
        await _rate(bare, SESSIONS // 10)
        await engine_rate(ledger, SESSIONS // 10, [])
        pairs = [(await engine_rate(ledger, SESSIONS, waits), await _rate(bare, SESSIONS)) for _ in range(ROUNDS)]
    waits.sort()
    against = "bare aiohttp client, no store"
    yield Figure(
        name=f"open sessions, concurrency {CONCURRENCY}",
        value=median(engine for engine, _ in pairs),
        unit="sessions/s",
        against=against,
        ratio=median(engine / bare_rate for engine, bare_rate in pairs),
    )
    yield Figure(name=against, value=median(bare_rate for _, bare_rate in pairs), unit="sessions/s")
    yield Figure(name="open_session returns, p50", value=waits[len(waits) // 2] * 1_000, unit="ms")
    yield Figure(name="open_session returns, p99", value=waits[len(waits) * 99 // 100] * 1_000, unit="ms")


def settings_at(place: dict[str, str], **database: Any) -> Settings:
    """The settings for this simulator and this database."""
    return Settings(
        encryption_key=KEY,
        cxone_url=place["url"],
        cxone_client_id=place["clientId"],
        cxone_client_secret=place["clientSecret"],
        webhook_url=place["webhookUrl"],
        webhook_allow_private=True,
        **database,
    )


async def engine_rate(ledger: Ledger, sessions: int, waits: list[float]) -> float:
    """Open so many sessions, to the last webhook and projection. Returns how many a second; adds each call's seconds."""

    async def one() -> None:
        began = time.perf_counter()
        session = await ledger.open_session(REQUEST)
        waits.append(time.perf_counter() - began)
        assert session.status == "active", session.cause

    began = time.perf_counter()
    await at_once(one, sessions)
    await finished(ledger)
    return sessions / (time.perf_counter() - began)


async def finished(ledger: Ledger) -> None:
    """Wait until nothing is due, and the projections show it."""
    while await ledger.scheduler.unfinished():
        await asyncio.sleep(0.01)
    await ledger.metrics()


async def _rate(one: Callable[[], Awaitable[None]], sessions: int) -> float:
    began = time.perf_counter()
    await at_once(one, sessions)
    return sessions / (time.perf_counter() - began)


async def at_once(one: Callable[[], Awaitable[None]], sessions: int) -> None:
    """Call `one` so often, `CONCURRENCY` at a time."""
    left = iter(range(sessions))

    async def worker() -> None:
        for _ in left:
            await one()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONCURRENCY):
            tasks.create_task(worker())


async def _bare_client(http: aiohttp.ClientSession, place: dict[str, str]) -> Callable[[], Awaitable[None]]:
    form = {
        "grant_type": "client_credentials",
        "client_id": place["clientId"],
        "client_secret": place["clientSecret"],
    }
    async with http.post(f"{place['url']}/oauth/token", data=form) as answer:
        token = (await answer.json())["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    keys = iter(range(sys.maxsize))

    async def one() -> None:
        with_key = {**headers, "Idempotency-Key": f"bare-{next(keys)}"}
        body = msgspec.json.encode(_CREATION)
        async with http.post(f"{place['url']}/api/v1/chat/sessions", data=body, headers=with_key) as answer:
            made: dict[str, Any] = msgspec.json.decode(await answer.read())
        notice = {
            "event": "session_started",
            "sessionId": made["sessionId"],
            "channelId": "ch_bench",
            "fingerprint": "0" * 64,
            "consentTimestamp": "2024-05-20T14:22:00Z",
            "timestamp": "2024-05-20T14:22:01Z",
        }
        async with http.post(place["webhookUrl"], json=notice) as answer:
            await answer.read()

    return one


@asynccontextmanager
async def simulator() -> AsyncIterator[dict[str, str]]:
    """A simulator in a process of its own; gives what it prints of itself."""
    command = (sys.executable, "-m", "guestledger.adapters.simulator", "--keep-requests", "100")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield msgspec.json.decode(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()
