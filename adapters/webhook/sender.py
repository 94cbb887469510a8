"""The analytics webhook over HTTP (contract, "Analytics webhook"), signed by the Standard Webhooks scheme."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from yarl import URL

from guestledger.adapters.webhook.addresses import AddressRefused, open_public_socket
from guestledger.adapters.webhook.signing import Signer
from guestledger.engine.domain.outcomes import Delivered
from guestledger.engine.domain.personal import Guarded, Personal, SecretBytes
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.retry import RetryAfter, read_retry_after

logger = logging.getLogger("guestledger")

# What a receiver may answer to have the next call come later; elsewhere, `Retry-After` says nothing of that.
_CALL_LATER = frozenset({429, 503})


class _Notice(Guarded, frozen=True, rename="camel"):
    event: str
    session_id: str
    channel_id: str
    fingerprint: Personal
    consent_timestamp: datetime
    timestamp: datetime


_encoder = msgspec.json.Encoder()


class HttpWebhook:
    """A `WebhookSender`. Use it as an async context manager, once.

    `secret` is what `Signer` takes, one secret or several; without it nothing is signed. `timeout_ms` bounds a whole call.
    Only public addresses are connected to, unless `allow_private`. No proxy of the environment is used.
    Raises `ValueError` for a URL or a secret that cannot be used, and shows neither: both may be secret.
    """

    def __init__(
        self,
        *,
        url: str,
        secret: str | None = None,
        allow_private: bool = False,
        timeout_ms: int = 3_000,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        connections: int = 64,
    ) -> None:
        self._url = _checked_url(url)
        self._signer = None if secret is None else Signer(secret)
        self._socket_factory = None if allow_private else open_public_socket
        self._timeout_ms = timeout_ms
        self._now = now
        self._connections = connections
        self._told = False

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, socket_factory=self._socket_factory),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout_ms / 1_000),
            headers={"Content-Type": "application/json", "User-Agent": "guestledger"},
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    @property
    def limiter(self) -> str:
        """The limiter that its calls pass: the receiver's host. The path may be secret, and is not in it."""
        return f"{self._url.host}:{self._url.port} webhook"

    async def send(self, session: Session) -> Delivered:
        """Tell that `session` has started. Whatever the wire does is in what comes back; only cancellation passes."""
        body = SecretBytes(_encoder.encode(_notice(session)))
        # The id is the session's own, so that a receiver knows a retry or a redelivery for what it is.
        headers = {} if self._signer is None else self._signer.headers(f"msg_{session.id.hex}", self._now(), body)
        began = time.perf_counter()
        status, message, retry_after = await self._post(body, headers)
        latency_ms = round((time.perf_counter() - began) * 1_000)
        return Delivered(status=status, message=message, latency_ms=latency_ms, retry_after=retry_after)

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int | None, str, RetryAfter | None]:
        try:
            async with self._http.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                status, answered = response.status, response.headers
        except (aiohttp.ClientError, OSError) as error:
            return None, self._cause(error), None
        message = f"HTTP {status}" + (": redirects are not followed" if 300 <= status < 400 else "")
        given = answered.getall("Retry-After", None) if status in _CALL_LATER else None
        asked = None if given is None else read_retry_after(", ".join(given), answered.get("Date"), self._now())
        return status, message, asked

    def _cause(self, error: Exception) -> str:
        """An error in a few words of our own: aiohttp's may quote the URL."""
        match error:
            case TimeoutError():
                return f"no answer within {self._timeout_ms} ms"
            case aiohttp.InvalidURL():
                return "not sent: the receiver's host is neither a name nor an address: check GUESTLEDGER_WEBHOOK_URL"
            case aiohttp.ClientConnectorDNSError():
                return "the receiver's host has no address"
            case aiohttp.ClientSSLError():
                return "no TLS connection could be agreed on"
            case aiohttp.ClientConnectorError(os_error=AddressRefused(kind=kind)):
                return self._refused(kind)
            case aiohttp.ClientConnectorError():
                return "connection refused"
            case aiohttp.ClientResponseError():
                return "what came back is not HTTP"
            case _:
                return "connection lost before the answer came"

    def _refused(self, kind: str) -> str:
        message = f"not sent: the receiver's address is {kind}, and only public ones are called"
        if not self._told:
            self._told = True
            logger.warning("webhooks are %s, unless GUESTLEDGER_WEBHOOK_ALLOW_PRIVATE=1", message)
        return message


def _notice(session: Session) -> _Notice:
    assert session.session_id is not None, "a session that has not started has nothing to tell"
    assert session.created_at is not None
    assert session.guest is not None
    assert session.consent is not None
    return _Notice(
        event="session_started",
        session_id=session.session_id,
        channel_id=session.channel_id,
        fingerprint=session.guest.fingerprint,
        consent_timestamp=_whole_seconds(session.consent.timestamp),
        timestamp=_whole_seconds(session.created_at),
    )


def _whole_seconds(moment: datetime) -> datetime:
    """As msgspec writes it: `2024-05-20T14:22:01Z`."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _checked_url(url: str) -> URL:
    try:
        parsed = URL(url)
        fits = parsed.scheme in {"http", "https"} and bool(parsed.host) and parsed.port is not None
    except ValueError:
        fits = False
    if not fits:
        raise ValueError("GUESTLEDGER_WEBHOOK_URL must be an http or https URL with a host")
    return parsed
