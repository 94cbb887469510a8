"""The API over aiohttp: what `guestledger serve` runs."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from guestledger.adapters.api.app import App
from guestledger.adapters.api.exchange import BodyTooLarge, Cut, Request
from guestledger.adapters.api.problems import Refused

# Above the application's own limits, which answer with a problem; beyond these, aiohttp answers 400.
_MAX_LINE = 64 * 1024
_SERVER = "guestledger"


def _without_data(record: logging.LogRecord) -> bool:
    """Keep what aiohttp logs, but for the request's own text, and nothing of requests that are not HTTP."""
    kind = record.exc_info[0] if record.exc_info else None
    if kind is None or issubclass(kind, HttpProcessingError):
        return False
    record.msg, record.args, record.exc_info = "a connection failed: %s", (kind.__name__,), None
    return True


_logger = logging.getLogger("guestledger.http")
_logger.addFilter(_without_data)


class _Connection(web.RequestHandler):
    """Answers what is not HTTP without its text, which aiohttp would repeat."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        known = message is None or status >= 500
        return super().handle_error(request, status, exc, message if known else "This is not a request of HTTP/1.1.\n")


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


@asynccontextmanager
async def serving(app: App, host: str, port: int, *, drain_seconds: float) -> AsyncIterator[str]:
    """Serve until the block ends, and yield the URL. Requests in flight then may finish within `drain_seconds`.

    Raises `OSError` if it cannot listen there.
    """
    server = _Server(
        _handler(app),
        access_log=None,
        logger=_logger,
        auto_decompress=False,
        max_line_size=_MAX_LINE,
        max_field_size=_MAX_LINE,
    )
    runner = web.ServerRunner(server, shutdown_timeout=drain_seconds)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield _url(runner)
    finally:
        app.stop()
        await runner.cleanup()


def _url(runner: web.ServerRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _handler(app: App) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = await app.respond(_request(request))
        headers = {"Server": _SERVER, **response.headers}
        if isinstance(response.body, bytes):
            return web.Response(status=response.status, headers=headers, body=response.body)
        stream = web.StreamResponse(status=response.status, headers=headers)
        await stream.prepare(request)
        try:
            async with aclosing(response.body) as parts:
                async for part in parts:
                    await stream.write(part)
            await stream.write_eof()
        except Cut:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionResetError:
            pass  # the other end has left
        return stream

    return handle


def _request(request: web.BaseRequest) -> Request:
    path, _, query = request.raw_path.partition("?")
    headers: dict[str, str] = {}
    for name, value in request.raw_headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return Request(
        method=request.method,
        path=path,
        query=query,
        headers=headers,
        read=_reader(request),
        client=request.remote or "",
    )


def _reader(request: web.BaseRequest) -> Callable[[int], Awaitable[bytes]]:
    async def read(limit: int) -> bytes:
        body = bytearray()
        try:
            if request.headers.get("expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async for part in request.content.iter_any():
                body += part
                if len(body) > limit:
                    raise BodyTooLarge
        except (OSError, web.RequestPayloadError):
            raise Refused("request-timeout", "The connection ended before the body did.") from None
        return bytes(body)

    return read
