"""One pool of connections, and one request with its answer."""

import asyncio
import hmac
import logging
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from math import inf
from typing import Any

import aiohttp
from yarl import URL

from guestledger.adapters.http.answers import uncompressed
from guestledger.adapters.http.failures import WIRE_ERRORS, cause_of_error
from guestledger.adapters.http.rate_limit import read_exhausted_quota
from guestledger.adapters.http.retry_after import NOTHING_ASKED, read_retry_after, sent_at
from guestledger.adapters.http.status_line import KeepingHandler, KeepingResponse
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.personal import Guarded, PersonalBytes, SecretBytes
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, RetryAfter, WaitBasis
from guestledger.engine.ports.telemetry import NoTelemetry, RequestPurpose, Telemetry

logger = logging.getLogger("guestledger")

BODY_LIMIT = 1024 * 1024
HEADER_LIMIT = 64 * 1024
_MAX_SHOWN = 100
_HMAC_KEY_BYTES = 32
_DOUBTFUL = {
    WaitBasis.RETRY_AFTER_EPOCH: "a Unix time in place of seconds",
    WaitBasis.RETRY_AFTER_CAPPED: "longer than LimiterPolicy.max_pause_ms",
    WaitBasis.QUOTA_EPOCH: "a Unix time in place of seconds",
    WaitBasis.QUOTA_CAPPED: "longer than LimiterPolicy.max_pause_ms",
}


class Answer(Guarded, frozen=True, kw_only=True):
    """`body` is `None` if it was not read. Its part beyond `BODY_LIMIT` is missing."""

    status: int
    asked: RetryAfter = NOTHING_ASKED
    """How long the server asks to wait, if it does not answer 2xx."""
    body: PersonalBytes | None = None
    cut_off: Cause | None = None
    """Why the body is incomplete: the connection broke, or the time was up."""
    exhausted: ExhaustedQuota | None = None

    @property
    def ok(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300


class Transport:
    """A pool of at most `connections`, without cookies, environment proxies or redirects.

    `total_ms` limits a whole request, `connect_ms` the wait for a connection (a free one, DNS, TCP, TLS).
    A pause for which a server asks is cut to `max_pause_ms`. The first doubtful pause is logged.
    """

    def __init__(
        self,
        *,
        connections: int,
        total_ms: int,
        connect_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_header: str = "Retry-After",
        max_pause_ms: int = MAX_RETRY_AFTER_MS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        socket_factory: Callable[[aiohttp.AddrInfoType], socket.socket] | None = None,
        telemetry: Telemetry = NoTelemetry(),
    ) -> None:
        connect_s = None if connect_ms is None else connect_ms / 1_000
        self.total_ms = total_ms
        self.connect_ms = total_ms if connect_ms is None else connect_ms
        self._retry_after_header = retry_after_header
        self._max_pause_ms = max_pause_ms
        self._now = now
        self._telemetry = telemetry
        self._warned: set[WaitBasis] = set()
        connector = aiohttp.TCPConnector(limit=connections, socket_factory=socket_factory)
        factory: Any = partial(KeepingHandler, loop=asyncio.get_running_loop())
        connector._factory = factory  # noqa: SLF001 - aiohttp has no public way
        self._http = aiohttp.ClientSession(
            connector=connector,
            response_class=KeepingResponse,
            auto_decompress=False,  # an unknown encoding of a body must not discard the status
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            max_headers=1_000,
            cookie_jar=aiohttp.DummyCookieJar(),
            # aiohttp rounds long timeouts up to whole seconds: without `inf`, total could end before connect.
            timeout=aiohttp.ClientTimeout(total=total_ms / 1_000, connect=connect_s, ceil_threshold=inf),
            headers={"User-Agent": "guestledger", **(headers or {})},
            trust_env=False,
        )

    async def send(
        self,
        purpose: RequestPurpose,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        read_body: bool = True,
    ) -> Answer:
        """The answer to one request. Raise one of `WIRE_ERRORS` if there is none."""
        with self._telemetry.request(purpose, method, url) as request:
            answer = await self._send(method, url, headers, body, read_body=read_body)
            request.answered(answer.status)
            return answer

    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, *, read_body: bool
    ) -> Answer:
        # Given as bytes of a class of our own, aiohttp would try each kind of body that it knows.
        data = None if body is None else aiohttp.BytesPayload(body)
        try:
            async with self._http.request(method, url, headers=headers, data=data, allow_redirects=False) as response:
                received, cut_off = await _body(response) if read_body else (None, None)
                return Answer(
                    status=response.status,
                    asked=self._asked(response),
                    exhausted=self._exhausted(response),
                    body=received,
                    cut_off=cut_off,
                )
        except aiohttp.ClientResponseError as error:
            if not error.status:
                raise
            return Answer(status=error.status)

    def _asked(self, response: aiohttp.ClientResponse) -> RetryAfter:
        given = _list_field(response, self._retry_after_header)
        if given is None:
            return NOTHING_ASKED
        asked = read_retry_after(given, response.headers.get("Date"), self._now(), self._max_pause_ms)
        if response.status >= 300:
            self._warn(response.url, self._retry_after_header, given, asked.basis, asked.ms)
        return asked

    def _exhausted(self, response: aiohttp.ClientResponse) -> ExhaustedQuota | None:
        given, policy = _list_field(response, "RateLimit"), _list_field(response, "RateLimit-Policy")
        if given is None:
            return None
        sent = sent_at(response.headers.get("Date"), self._now())
        exhausted = read_exhausted_quota(given, policy, sent, self._max_pause_ms)
        if exhausted is not None:
            self._warn(response.url, "RateLimit", given, exhausted.basis, exhausted.ms)
        return exhausted

    def _warn(self, url: URL, field: str, given: str, basis: WaitBasis, ms: int) -> None:
        if basis in _DOUBTFUL and basis not in self._warned:
            self._warned.add(basis)
            logger.warning(
                "%s:%s sent `%s: %s`: %s. The pause is %g s; later ones like it are not logged.",
                *(url.host, url.port, field, ascii(given)[1:-1][:_MAX_SHOWN], _DOUBTFUL[basis], ms / 1_000),
            )

    def time_limit(self, error: Exception) -> str:
        """The limit that a timeout exceeded, such as `250 ms`. Empty for other errors."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return f"{self.connect_ms} ms"
        return f"{self.total_ms} ms" if isinstance(error, TimeoutError) else ""

    async def close(self) -> None:
        """Close every connection."""
        await self._http.close()


def request_hmac(key: SecretBytes, method: str, url: URL, body: bytes) -> str:
    """HMAC-SHA-256 (hex) of `METHOD URL`, a line feed and the body. Raises `ValueError` unless the key has 32 bytes."""
    if len(key) != _HMAC_KEY_BYTES:
        raise ValueError(f"the key of a request's digest must have {_HMAC_KEY_BYTES} bytes")
    return hmac.digest(key, SecretBytes(f"{method} {url}\n".encode() + body), "sha256").hex()


def _list_field(response: aiohttp.ClientResponse, name: str) -> str | None:
    """The joined lines of a field (RFC 9110, section 5.3)."""
    lines = response.headers.getall(name, None)
    return None if lines is None else ", ".join(lines)


async def _body(response: aiohttp.ClientResponse) -> tuple[bytes | None, Cause | None]:
    """What was received of the body, without its content coding; and why it is incomplete, if it is."""
    body, cut_off = BytesIO(), None  # its repr shows nothing
    try:
        while not response.content.at_eof() and body.tell() < BODY_LIMIT:
            body.write(await response.content.readany())
    except WIRE_ERRORS as error:
        cut_off = cause_of_error(error)
    encoding = response.headers.get("Content-Encoding", "")
    plain = uncompressed(SecretBytes(body.getvalue()), encoding, BODY_LIMIT)
    return None if plain is None else SecretBytes(plain), cut_off
