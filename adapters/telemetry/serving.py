"""`/metrics`, `/healthz` and `/readyz` over HTTP, beside a worker."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import web

from guestledger.adapters.telemetry.endpoints import Answer, healthz, metrics, readyz
from guestledger.engine.ledger import Ledger

_Endpoint = Callable[[], Awaitable[Answer]]


@asynccontextmanager
async def serving(ledger: Ledger, host: str, port: int) -> AsyncIterator[int]:
    """Serve the three endpoints until the block ends. Gives the port: 0 chooses a free one.

    Without a key and without TLS: bind it to loopback, or to a network that only your monitoring reaches. Raises `OSError` if the
    address cannot be bound.
    """
    app = web.Application()
    endpoints: dict[str, _Endpoint] = {
        "/metrics": partial(metrics, ledger),
        "/healthz": healthz,
        "/readyz": partial(readyz, ledger, works=True),
    }
    for path, answer in endpoints.items():
        app.router.add_get(path, _handler(answer))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _handler(endpoint: _Endpoint) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_request: web.Request) -> web.Response:
        answer = await endpoint()
        headers = {"Content-Type": answer.content_type, "Cache-Control": "no-store"}
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    return handle
