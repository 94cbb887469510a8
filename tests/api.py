"""The HTTP API on loopback, over aiohttp and over ASGI, with a key for each role."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import msgspec
import uvicorn

from guestledger.adapters.api.access import digest_of, key_text, new_secret
from guestledger.adapters.api.admission import ApiLimits
from guestledger.adapters.api.asgi import AsgiApp
from guestledger.adapters.api.serve import serving
from guestledger.adapters.doors import application, asgi
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role

ADAPTERS = ("aiohttp", "asgi")
GENEROUS = ApiLimits(requests_per_second=1_000_000)
GUEST = {
    "channelId": "ch_8f3a9b2c",
    "ipAddress": "203.0.113.7",
    "userAgent": "Mozilla/5.0",
    "timestamp": "2024-05-20T14:21:59Z",
    "consent": {"dataProcessing": True, "gdprCompliant": True},
}


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Api:
    """A client with a key for each role."""

    def __init__(self, url: str, keys: Mapping[Role, str], http: aiohttp.ClientSession) -> None:
        self.url = url
        self.keys = keys
        self._http = http

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: Role | None = Role.OPERATOR,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request with the key of this role; a body that is not bytes is sent as JSON."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        if role is not None:
            sent["Authorization"] = f"Bearer {self.keys[role]}"
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        async with self._http.request(method, self.url + path, data=data, headers=sent | dict(headers or {})) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **options: Any) -> Reply:
        """Send a GET."""
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Reply:
        """Send a POST."""
        return await self.call("POST", path, body, **options)


async def new_key(ledger: Ledger, role: Role, name: str | None = None) -> str:
    """Make a key."""
    secret = new_secret()
    key = await ledger.access.add(name or f"{role}-key", role, digest_of(secret), created_by="tests")
    return key_text(key.id, secret)


@asynccontextmanager
async def api_of(ledger: Ledger, adapter: str = "aiohttp", *, limits: ApiLimits = GENEROUS) -> AsyncIterator[Api]:
    """The API of a ledger, by this adapter."""
    keys = {role: await new_key(ledger, role) for role in Role}
    async with served(ledger, adapter, limits) as url, aiohttp.ClientSession() as http:
        yield Api(url, keys, http)


@asynccontextmanager
async def served(ledger: Ledger, adapter: str, limits: ApiLimits = GENEROUS) -> AsyncIterator[str]:
    """The URL of the API."""
    if adapter == "asgi":
        mounted = asgi(limits=limits)
        mounted.use(ledger)
        async with uvicorn_of(mounted) as url:
            yield url
        return
    async with serving(application(ledger, limits=limits), "127.0.0.1", 0, drain_seconds=5) as url:
        yield url


@asynccontextmanager
async def uvicorn_of(application: AsgiApp | Any, *, lifespan: str = "off") -> AsyncIterator[str]:
    """The URL of an ASGI application under uvicorn, in this event loop."""
    config = uvicorn.Config(
        application, host="127.0.0.1", port=0, log_config=None, lifespan=lifespan, ws="none", access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())  # `serve` would take over the signals of the tests
    while not server.started and not running.done():
        await asyncio.sleep(0.005)
    if running.done():
        running.result()
        raise AssertionError("it did not start")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running
