"""The API as an ASGI application: served alone, or mounted in FastAPI, Starlette or Django."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, aclosing
from typing import Any
from urllib.parse import quote

from guestledger.adapters.api.app import App
from guestledger.adapters.api.exchange import BodyTooLarge, Parts, Request, Response
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import GuestledgerError
from guestledger.engine.ledger import Ledger

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiApp:
    """Answers over ASGI. Without `settings`, its own lifespan opens the ledger of the environment."""

    def __init__(self, app: App, settings: Settings | None, *, scheduler: bool) -> None:
        self._app = app
        self._settings = settings
        self._scheduler = scheduler

    def use(self, ledger: Ledger | None) -> None:
        """Answer with a ledger that the host opened; `None`: the host closes it."""
        self._app.use(ledger)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or live through the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await _send(await self._app.respond(_request(scope, receive)), receive, send)
        else:  # a WebSocket
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        async with AsyncExitStack() as stack:
            try:
                settings = self._settings or Settings.from_env()
                self.use(await stack.enter_async_context(connect(settings, scheduler=self._scheduler)))
            except GuestledgerError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            self.use(None)
        await send({"type": "lifespan.shutdown.complete"})


def _request(scope: Message, receive: Receive) -> Request:
    base = str(scope.get("root_path", "")).rstrip("/")
    # Some servers give no raw path, and some frameworks mount with the whole path.
    path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1").partition("?")[0]
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    client = scope.get("client")
    return Request(
        method=scope["method"],
        path=path.removeprefix(quote(base)) if base else path,
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        read=_reader(receive),
        client=client[0] if client else "",
        base=base,
    )


def _reader(receive: Receive) -> Callable[[int], Awaitable[bytes]]:
    async def read(limit: int) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused("request-timeout", "The connection ended before the body did.")
            body += message.get("body", b"")
            if len(body) > limit:
                raise BodyTooLarge
            if not message.get("more_body", False):
                return bytes(body)

    return read


async def _send(response: Response, receive: Receive, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if not isinstance(response.body, bytes):
        await _send_parts(response.body, receive, send)
    body = response.body if isinstance(response.body, bytes) else b""
    await send({"type": "http.response.body", "body": body})


async def _send_parts(parts: Parts, receive: Receive, send: Send) -> None:
    """Send the parts, until the other end leaves: a server drops what is sent after that without a word."""
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        async with aclosing(parts):
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
                if leaving.done():
                    return
    finally:
        leaving.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # what is left of the request
