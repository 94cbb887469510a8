"""The simulator's HTTP server."""

import asyncio
import secrets
import time
from collections import Counter, deque
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import unquote

import msgspec
from aiohttp import web

from guestledger.adapters.simulator.api import DROPPED, Made, Reply, SimulatedApi
from guestledger.adapters.simulator.config import SimulatorConfig
from guestledger.engine.domain.personal import SecretBytes

_CHANNELS = "/api/v2/channels/"


class SentRequest(NamedTuple):
    """A request and the status of its answer (0: dropped). The body of a token request is not kept."""

    time: float
    method: str
    path: str
    status: int
    key: str | None
    body: bytes


class SentWebhook(NamedTuple):
    """A webhook call, with headers by lower-case name."""

    time: float
    headers: dict[str, str]
    body: bytes


class Simulator:
    """The simulator on 127.0.0.1. Use it as an async context manager, once.

    `keep_requests` limits the requests and webhooks kept (`None`: all). `config` may be replaced at any time.
    """

    def __init__(
        self,
        config: SimulatorConfig | None = None,
        *,
        port: int = 0,
        client_id: str = "simulated-client",
        client_secret: str | None = None,
        keep_requests: int | None = None,
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret or secrets.token_urlsafe(24)
        self.requests: deque[SentRequest] = deque(maxlen=keep_requests)
        self.webhooks: deque[SentWebhook] = deque(maxlen=keep_requests)
        self.counts: Counter[str] = Counter()
        """By kind (`token`, `channel`, `session`, `webhook`, `other`) and status: `"session 429"`."""
        self.url = ""
        self._api = SimulatedApi(config or SimulatorConfig(), self.client_id, self.client_secret)
        self._port = port

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1_024).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def webhook_url(self) -> str:
        """The URL of the webhook receiver."""
        return f"{self.url}/webhook"

    @property
    def config(self) -> SimulatorConfig:
        """The current behaviour."""
        return self._api.config

    @config.setter
    def config(self, config: SimulatorConfig) -> None:
        self._api.config = config

    @property
    def sessions_by_key(self) -> dict[str, list[Made]]:
        """The sessions by idempotency key. More than one for a key is a duplicate."""
        return self._api.sessions_by_key

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far."""
        self._api.revoke_tokens()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = SecretBytes(await request.read())
        method, path, key = request.method, request.raw_path, request.headers.get("Idempotency-Key")
        if path.startswith("/_simulator/"):
            return _response(self._control(method, path, body))
        name, reply = self._answer(request, path, key, body)
        self.counts[f"{name} {reply.status}"] += 1
        kept = b"" if name == "token" else body
        self.requests.append(SentRequest(time.time(), method, path, reply.status, key, kept))
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        if reply.status == DROPPED and request.transport is not None:
            request.transport.abort()
        return _response(reply)

    def _answer(self, request: web.BaseRequest, path: str, key: str | None, body: bytes) -> tuple[str, Reply]:
        headers = request.headers
        authorization = headers.get("Authorization", "")
        match request.method, path:
            case "POST", "/api/v1/chat/sessions":
                content_type = headers.get("Content-Type", "")
                return "session", self._api.create_session(body, key, content_type, authorization)
            case "GET", _ if path.startswith(_CHANNELS):
                return "channel", self._api.show_channel(unquote(path.removeprefix(_CHANNELS)), authorization)
            case "POST", "/oauth/token":
                return "token", self._api.issue_token(body)
            case "POST", "/webhook":
                named = {name.lower(): value for name, value in headers.items()}
                self.webhooks.append(SentWebhook(time.time(), named, body))
                asked = self.config.webhook_retry_after
                later = () if asked is None else (("Retry-After", asked),)
                return "webhook", Reply(self.config.webhook_status, headers=later, delay_s=self.config.webhook_hang_s)
            case _:
                return "other", Reply(404, b'{"message":"no such path"}')

    def _control(self, method: str, path: str, body: bytes) -> Reply:
        match method, path:
            case "GET", "/_simulator/state":
                return Reply(200, msgspec.json.encode(self._state()))
            case "PUT", "/_simulator/config":
                try:
                    self.config = msgspec.json.decode(body, type=SimulatorConfig)
                except msgspec.DecodeError as error:
                    return Reply(400, msgspec.json.encode({"message": str(error)}))
                return Reply(204)
            case "POST", "/_simulator/revoke":
                self.revoke_tokens()
                return Reply(204)
            case _:
                return Reply(404)

    def _state(self) -> dict[str, object]:
        sessions = self.sessions_by_key
        return {
            "counts": self.counts,
            "sessions": sum(len(made) for made in sessions.values()),
            "sessionsByKey": {key: [one.session_id for one in made] for key, made in sessions.items()},
        }


def _response(reply: Reply) -> web.Response:
    content_type = "application/json" if reply.body else None
    return web.Response(
        status=reply.status or 500,  # 0: the connection is dropped
        body=reply.body,
        headers=reply.headers or None,
        content_type=content_type,
    )
