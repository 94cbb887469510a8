"""One pool of connections, and one request with its answer."""

import socket
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from math import inf

import aiohttp
from yarl import URL

from guestledger.adapters.http.failures import WIRE_ERRORS
from guestledger.adapters.http.rate_limit import read_exhausted_quota
from guestledger.adapters.http.retry_after import read_retry_after
from guestledger.engine.domain.personal import Guarded, PersonalBytes, SecretBytes
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import RetryAfter

BODY_LIMIT = 64 * 1024


class Answer(Guarded, frozen=True, kw_only=True):
    """`body` is `None` if it was not read, is incomplete or exceeds `BODY_LIMIT`."""

    status: int
    retry_after: str | None = None
    date: str | None = None
    body: PersonalBytes | None = None
    exhausted: ExhaustedQuota | None = None

    @property
    def ok(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300

    def asked(self, now: datetime) -> RetryAfter:
        """How long the server asks to wait."""
        return read_retry_after(self.retry_after, self.date, now)


class Transport:
    """A pool of at most `connections`, without cookies, environment proxies or redirects.

    `total_ms` limits a whole request, `connect_ms` the wait for a connection (a free one, DNS, TCP, TLS).
    """

    def __init__(
        self,
        *,
        connections: int,
        total_ms: int,
        connect_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_header: str = "Retry-After",
        socket_factory: Callable[[aiohttp.AddrInfoType], socket.socket] | None = None,
    ) -> None:
        connect_s = None if connect_ms is None else connect_ms / 1_000
        self.total_ms = total_ms
        self.connect_ms = total_ms if connect_ms is None else connect_ms
        self._retry_after_header = retry_after_header
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, socket_factory=socket_factory),
            cookie_jar=aiohttp.DummyCookieJar(),
            # aiohttp rounds long timeouts up to whole seconds: without `inf`, total could end before connect.
            timeout=aiohttp.ClientTimeout(total=total_ms / 1_000, connect=connect_s, ceil_threshold=inf),
            headers={"User-Agent": "guestledger", **(headers or {})},
            trust_env=False,
        )

    async def send(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None = None, *, read_body: bool = True
    ) -> Answer:
        """The answer to one request. Raise one of `WIRE_ERRORS` if there is none."""
        # Given as bytes of a class of our own, aiohttp would try each kind of body that it knows.
        data = None if body is None else aiohttp.BytesPayload(body)
        async with self._http.request(method, url, headers=headers, data=data, allow_redirects=False) as response:
            return Answer(
                status=response.status,
                retry_after=_list_field(response, self._retry_after_header),
                date=response.headers.get("Date"),
                exhausted=read_exhausted_quota(
                    _list_field(response, "RateLimit"), _list_field(response, "RateLimit-Policy")
                ),
                body=await _body(response.content) if read_body else None,
            )

    def time_limit(self, error: Exception) -> str:
        """The limit that a timeout exceeded, such as `250 ms`. Empty for other errors."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"{self.connect_ms} ms"
        return f"{self.total_ms} ms" if isinstance(error, TimeoutError) else ""

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()


def request_sha256(method: str, url: URL, body: bytes) -> str:
    """SHA-256 (hex) of `METHOD URL`, a line feed and the body."""
    return sha256(SecretBytes(f"{method} {url}\n".encode() + body)).hexdigest()


def _list_field(response: aiohttp.ClientResponse, name: str) -> str | None:
    """The joined lines of a field (RFC 9110, section 5.3)."""
    lines = response.headers.getall(name, None)
    return None if lines is None else ", ".join(lines)


async def _body(content: aiohttp.StreamReader) -> bytes | None:
    body = BytesIO()  # its repr shows nothing
    try:
        while not content.at_eof():
            body.write(await content.readany())
            if body.tell() > BODY_LIMIT:
                return None
    except WIRE_ERRORS:
        return None
    return SecretBytes(body.getvalue())
