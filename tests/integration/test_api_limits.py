"""The limits of the API, and clients that leave: what counts as in progress, and what ends it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from guestledger.adapters.api import access
from guestledger.adapters.api.access import Caller
from guestledger.adapters.api.admission import ApiLimits
from guestledger.adapters.api.app import App
from guestledger.adapters.api.asgi import AsgiApp
from guestledger.adapters.api.exchange import Parts, Request, Response
from guestledger.adapters.api.handlers import health
from guestledger.adapters.api.problems import Problem
from guestledger.adapters.api.route import Context, Params, Route
from guestledger.adapters.api.serve import serving
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests.api import ADAPTERS, new_key, served, uvicorn_of


class Waits:
    """A handler that answers once it may, and how many requests have reached it."""

    def __init__(self) -> None:
        self.reached = asyncio.Semaphore(0)
        self.may_answer = asyncio.Event()

    async def __call__(self, _asked: Params, _context: Context) -> health.HealthForm:
        self.reached.release()
        await self.may_answer.wait()
        return health.HealthForm()


class Downloads:
    """A handler whose answer has so many parts, how many are left, and whether it was closed."""

    def __init__(self, parts: int) -> None:
        self.left = parts
        self.closed = asyncio.Event()

    async def __call__(self, _asked: Params, _context: Context) -> Response:
        return Response(body=self._parts())

    async def _parts(self) -> Parts:
        try:
            while self.left:
                self.left -= 1
                await asyncio.sleep(0)
                yield b"x" * 1_000
        finally:
            self.closed.set()


async def by_header(request: Request, _ledger: Ledger) -> Caller:
    """Name the caller as the request says."""
    return Caller(name=request.headers["name"], roles=frozenset(Role))


def problem_of(response: Response) -> Problem:
    assert isinstance(response.body, bytes)
    return msgspec.json.decode(response.body, type=Problem)


async def test_health_is_answered_however_many_requests_are_in_progress(ledger: Ledger) -> None:
    waits = Waits()
    routes = [Route(method="GET", path="/", handler=waits), *health.ROUTES]
    limits = ApiLimits(concurrent_per_key=2, concurrent=3, requests_per_second=3)
    app = App(ledger, routes=routes, authenticate=by_header, limits=limits)

    def ask(path: str, name: str = "") -> Any:
        return app.respond(Request(method="GET", path=path, headers={"name": name}))

    running = [asyncio.ensure_future(ask("/", name)) for name in ("jane", "jane", "joe")]
    for _ in running:
        await waits.reached.acquire()
    assert [(await ask("/", name)).status for name in ("jane", "joe")] == [429, 429]
    assert [(await ask("/healthz")).status for _ in range(9)] == [200] * 9
    assert (await ask("/readyz")).status == 200
    waits.may_answer.set()
    assert [response.status for response in await asyncio.gather(*running)] == [200] * 3


async def test_keys_that_cannot_be_read_are_asked_for_once_by_all_who_wait(
    ledger: Ledger, connect_by_sql: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_READ_SECONDS", 0.5)
    reads = 0
    read = ledger.access.list

    async def counted() -> Any:
        nonlocal reads
        reads += 1
        return await read()

    headers = {"authorization": f"Bearer {await new_key(ledger, Role.AUDITOR)}"}
    app = App(ledger, limits=ApiLimits(concurrent=4))
    monkeypatch.setattr(ledger.access, "list", counted)
    holder = await connect_by_sql()
    async with holder.transaction():
        await holder.execute("LOCK TABLE api_keys")
        asked = [Request(method="GET", path="/v1/limits", headers=headers) for _ in range(6)]
        responses = await asyncio.gather(*map(app.respond, asked))
    assert [response.status for response in responses] == [503] * 4 + [429] * 2
    assert problem_of(responses[0]).code == "service-unavailable"
    assert reads == 1
    monkeypatch.setattr(access, "_READ_SECONDS", 60)
    assert (await app.respond(asked[0])).status == 200


async def test_a_download_is_in_progress_until_its_end(ledger: Ledger) -> None:
    routes = [
        Route(method="GET", path="/download", handler=Downloads(3)),
        Route(method="GET", path="/cut", handler=Downloads(3)),
        Route(method="GET", path="/live", handler=Downloads(3), endless=True),
    ]
    app = App(ledger, routes=routes, authenticate=by_header, limits=ApiLimits(concurrent=1, concurrent_per_key=1))

    async def ask(path: str) -> Response:
        return await app.respond(Request(method="GET", path=path, headers={"name": "jane"}))

    live, download = await ask("/live"), await ask("/download")
    assert (live.status, download.status, (await ask("/cut")).status) == (200, 200, 429)
    assert not isinstance(download.body, bytes)
    assert len([part async for part in download.body]) == 3
    cut = await ask("/cut")
    assert (cut.status, (await ask("/live")).status) == (200, 429)
    assert not isinstance(cut.body, bytes)
    await anext(cut.body)
    await cut.body.aclose()
    assert (await ask("/live")).status == 200


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_download_ends_when_its_client_leaves(ledger: Ledger, adapter: str) -> None:
    downloads = Downloads(200_000)
    routes = [Route(method="GET", path="/", handler=downloads)]
    app = App(ledger, routes=routes, authenticate=by_header)
    over = {
        "aiohttp": lambda: serving(app, "127.0.0.1", 0, drain_seconds=5),
        "asgi": lambda: uvicorn_of(AsgiApp(app, None, scheduler=False)),
    }
    async with asyncio.timeout(60), over[adapter]() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nName: jane\r\n\r\n")
        await reader.readexactly(10_000)
        writer.transport.abort()
        await downloads.closed.wait()
    assert downloads.left


class Answered(logging.Handler):
    """The lines of the access log, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put_nowait(record.getMessage())


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("rest", [None, b"", b"ZZ\r\n"])
async def test_a_body_that_breaks_off_is_no_failure_of_the_server(
    ledger: Ledger, adapter: str, rest: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "guestledger.access")
    answered, key = Answered(), await new_key(ledger, Role.OPERATOR)
    head = (
        f"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nExpect: 100-continue\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    logging.getLogger("guestledger.access").addHandler(answered)
    async with asyncio.timeout(60), served(ledger, adapter) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(head.encode())
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        if rest is None:
            writer.transport.abort()
        else:
            writer.write(rest)
            writer.write_eof()
        line = await answered.lines.get()
        writer.close()
    logging.getLogger("guestledger.access").removeHandler(answered)
    assert line.startswith("POST /v1/sessions 408 ")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
