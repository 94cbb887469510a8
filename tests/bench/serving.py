"""The HTTP API: `guestledger serve` as a process, read and written by 64 connections.

Creation through the API is compared with `guestledger open`, also a process of its own, and with `ledger.open_session` in this
process. The sides take turns, round by round, at the same simulator; for each, a session counts once it is created.
"""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
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
            async with _serve(settings) as url, _client(url, key) as request, _open(settings) as open_all:

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
                await open_all(SESSIONS // 5)
                rates = [
                    (await _rate(create, SESSIONS, []), await open_all(SESSIONS), await _rate(call, SESSIONS, []))
                    for _ in range(ROUNDS)
                ]
    waits.sort()
    yield Figure(name=f"GET a session, {CONCURRENCY} connections", value=median(reads), unit="reads/s")
    yield Figure(name="GET a session, p50", value=waits[len(waits) // 2] * 1_000, unit="ms")
    yield Figure(name="GET a session, p99", value=waits[len(waits) * 99 // 100] * 1_000, unit="ms")
    posts, opens, calls = zip(*rates, strict=True)
    for against, others in ("guestledger open", opens), ("ledger.open_session", calls):
        ratio = median(post / other for post, other in zip(posts, others, strict=True))
        yield Figure(name="POST a session", value=median(posts), unit="sessions/s", against=against, ratio=ratio)
        yield Figure(name=against, value=median(others), unit="sessions/s")


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
async def _open(settings: Settings) -> AsyncIterator[Callable[[int], Awaitable[float]]]:
    """Opens so many sessions through one `guestledger open`, which goes on reading; gives how many a second."""
    process = await _started(settings, "open", "-", "--concurrency", str(CONCURRENCY), stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    written, read = process.stdin, process.stdout

    async def open_all(sessions: int) -> float:
        began = time.perf_counter()
        written.write((_BODY + b"\n") * sessions)
        for _ in range(sessions):
            assert b'"status":"active"' in await read.readline()
        return sessions / (time.perf_counter() - began)

    draining = asyncio.create_task(_drain(process.stderr))
    try:
        yield open_all
    finally:
        written.close()
        await process.wait()
        await draining


@asynccontextmanager
async def _serve(settings: Settings) -> AsyncIterator[str]:
    """The URL of a server in a process of its own."""
    process = await _started(settings, "serve", "--port", "0", "--no-worker", "--rate", "1000000")
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


async def _started(settings: Settings, *arguments: str, **streams: int) -> Process:
    given = {variable(name): str(value) for name, value in asdict(settings).items() if value not in (None, False, "")}
    command = (sys.executable, "-m", "guestledger.adapters.cli.main", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=given, stderr=PIPE, **streams)


async def _drain(stream: asyncio.StreamReader | None) -> None:
    while stream is not None and await stream.read(1 << 16):
        pass
