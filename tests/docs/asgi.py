"""Runs an ASGI application in the test's own event loop: its lifespan, and single requests."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Asgi:
    """The application between start-up and shutdown."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._state: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        self._lifespan = asyncio.ensure_future(self._application(scope, self._to.get, self._from.put))
        await self._to.put({"type": "lifespan.startup"})
        answer = await self._from.get()
        assert answer["type"] == "lifespan.startup.complete", answer
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._to.put({"type": "lifespan.shutdown"})
        answer = await self._from.get()
        assert answer["type"] == "lifespan.shutdown.complete", answer
        await self._lifespan

    async def post(self, path: str, value: Any, **headers: str) -> tuple[int, Any]:
        """The status and the JSON of the answer."""
        body = json.dumps(value).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"user-agent", b"Mozilla/5.0"),
                (b"host", b"testserver"),
                *((name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()),
            ],
            "client": ("203.0.113.9", 50_000),
            "server": ("testserver", 80),
            "state": dict(self._state),
        }
        received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        await received.put({"type": "http.request", "body": body, "more_body": False})
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._application(scope, received.get, send)
        status = next(message["status"] for message in sent if message["type"] == "http.response.start")
        text = b"".join(message.get("body", b"") for message in sent)
        return status, json.loads(text)
