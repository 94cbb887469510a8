"""The HTTP API: `guestledger serve` as a process, read and written by 64 connections.

Creation through the API is compared with `ledger.open_session` in this process. The sides take turns, round by round, at the same
simulator; for both, a session counts once it is created.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import msgspec
from msgspec.structs import asdict

from guestledger.adapters.cli.running import collect_garbage_rarely
from guestledger.adapters.settings import Settings, variable
from guestledger.adapters.wiring import connect
from guestledger.engine.ports.access_keys import Role
from tests.api import new_key
from tests.bench.figures import Figure
from tests.bench.opening import CONCURRENCY, REQUEST, at_once, settings_at, simulator

SESSIONS = 1_000
READS = 4_000
ROUNDS = 5


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Reads a second and their wait; creations a second beside the library's."""
    collect_garbage_rarely()
    async with simulator() as place:
        settings = msgspec.structs.replace(settings_at(place, data_dir=data_dir), webhook_url=None)
        async with connect(settings, scheduler=False) as ledger:
            key = await new_key(ledger, Role.OPERATOR)
            session = await ledger.open_session(REQUEST)
            async with _serve(settings) as url, _client(url, key) as request:

                async def read() -> None:
                    assert await request("GET", f"/v1/sessions/{session.id}") == 200

                async def create() -> None:
                    assert await request("POST", "/v1/sessions", _BODY) == 201

                async def call() -> None:
                    assert (await ledger.open_session(REQUEST)).status == "active"

                for warm in (read, create, call):
                    await _rate(warm, SESSIONS // 5, [])
                waits: list[float] = []
                reads = [await _rate(read, READS, waits) for _ in range(ROUNDS)]
                pairs = [(await _rate(create, SESSIONS, []), await _rate(call, SESSIONS, [])) for _ in range(ROUNDS)]
    waits.sort()
    yield Figure(name=f"GET a session, {CONCURRENCY} connections", value=median(reads), unit="reads/s")
    yield Figure(name="GET a session, p50", value=waits[len(waits) // 2] * 1_000, unit="ms")
    yield Figure(name="GET a session, p99", value=waits[len(waits) * 99 // 100] * 1_000, unit="ms")
    against = "ledger.open_session"
    yield Figure(
        name="POST a session",
        value=median(api for api, _ in pairs),
        unit="sessions/s",
        against=against,
        ratio=median(api / library for api, library in pairs),
    )
    yield Figure(name=against, value=median(library for _, library in pairs), unit="sessions/s")


_BODY = msgspec.json.encode(REQUEST)


@asynccontextmanager
async def _client(url: str, key: str) -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Send requests over kept connections, and return the status. No more than that: it shares the processors."""
    host, _, port = url.removeprefix("http://").partition(":")
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    head = f"Host: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"

    async def request(method: str, path: str, body: bytes = b"") -> int:
        reader, writer = free.pop() if free else await asyncio.open_connection(host, int(port))
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        free.append((reader, writer))
        return int(answer[9:12])

    yield request
    for _, writer in free:
        writer.close()


async def _rate(one: Callable[[], Awaitable[None]], times: int, waits: list[float]) -> float:
    async def timed() -> None:
        began = time.perf_counter()
        await one()
        waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    await at_once(timed, times)
    return times / (time.perf_counter() - began)


@asynccontextmanager
async def _serve(settings: Settings) -> AsyncIterator[str]:
    """The URL of a server in a process of its own."""
    given = {variable(name): str(value) for name, value in asdict(settings).items() if value not in (None, False, "")}
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "guestledger.adapters.cli.main",
            "serve",
            "--port",
            "0",
            "--no-worker",
            "--rate",
            "1000000",
        ),
        env=given,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    draining = None
    try:
        url = ""
        while "serving on" not in url:
            url = (await process.stderr.readline()).decode()
        draining = asyncio.create_task(_drain(process.stderr))
        yield url.rpartition(" ")[2].strip()
    finally:
        process.terminate()
        await process.wait()
        if draining is not None:
            await draining


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass
