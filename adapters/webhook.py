"""The analytics webhook over HTTP (contract, "Analytics webhook"), signed by the Standard Webhooks scheme."""

import base64
import binascii
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from standardwebhooks import Webhook
from yarl import URL

from engine.domain.outcomes import Delivered
from engine.domain.session import Session

SECRET_PREFIX = "whsec_"  # noqa: S105 - the scheme's mark of a secret, not one


class _Notice(msgspec.Struct, rename="camel"):
    event: str
    session_id: str
    channel_id: str
    fingerprint: str
    consent_timestamp: datetime
    timestamp: datetime


_encoder = msgspec.json.Encoder()


class HttpWebhook:
    """A `WebhookSender`. Use it as an async context manager, once.

    `secret` is base64, with or without `whsec_` before it; without a secret nothing is signed. `timeout_ms` bounds a
    whole call. Raises `ValueError` for a URL or a secret that cannot be used, and shows neither: both may be secret.
    """

    def __init__(
        self,
        *,
        url: str,
        secret: str | None = None,
        timeout_ms: int = 3_000,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        connections: int = 64,
    ) -> None:
        self._url = _checked_url(url)
        self._signer = None if secret is None else Webhook(_key(secret))
        self._timeout_ms = timeout_ms
        self._now = now
        self._connections = connections

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
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

    async def send(self, session: Session) -> Delivered:
        """Tell that `session` has started. Whatever the wire does is in what comes back; only cancellation passes."""
        body = _encoder.encode(_notice(session))
        headers = self._signature(f"msg_{session.id.hex}", body)
        began = time.perf_counter()
        status, message = await self._post(body, headers)
        return Delivered(status=status, message=message, latency_ms=round((time.perf_counter() - began) * 1_000))

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int | None, str]:
        try:
            async with self._http.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            return None, self._cause(error)
        return status, f"HTTP {status}" + (": redirects are not followed" if 300 <= status < 400 else "")

    def _signature(self, message_id: str, body: bytes) -> dict[str, str]:
        """The scheme's headers. The id is the session's own, so that a receiver knows a retry for what it is."""
        if self._signer is None:
            return {}
        # `sign` drops the offset and takes the rest for UTC, so that it must be given UTC and nothing else.
        at = self._now().astimezone(UTC)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._signer.sign(message_id, at, body.decode()),
        }

    def _cause(self, error: Exception) -> str:
        """An error in a few words of our own: aiohttp's may quote the URL."""
        match error:
            case TimeoutError():
                return f"no answer within {self._timeout_ms} ms"
            case aiohttp.ClientConnectorDNSError():
                return "the receiver's host has no address"
            case aiohttp.ClientSSLError():
                return "no TLS connection could be agreed on"
            case aiohttp.ClientConnectorError():
                return "connection refused"
            case aiohttp.ClientResponseError():
                return "what came back is not HTTP"
            case _:
                return "connection lost before the answer came"


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


def _key(secret: str) -> bytes:
    """The key in `secret`. The library would skip over characters that are not base64, and so sign with another key."""
    text = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(
            f"GUESTLEDGER_WEBHOOK_SECRET must be base64, with or without {SECRET_PREFIX!r} before it: "
            "give the secret just as the receiver shows it"
        )
    return key
