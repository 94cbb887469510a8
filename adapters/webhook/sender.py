"""The analytics webhook over HTTP (contract, "Analytics webhook")."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from guestledger.adapters.http.failures import WIRE_ERRORS, cause_of_error
from guestledger.adapters.http.transport import Answer, Transport
from guestledger.adapters.http.urls import checked_url
from guestledger.adapters.webhook.addresses import AddressRefused, open_public_socket
from guestledger.adapters.webhook.signing import Signer
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Delivery
from guestledger.engine.domain.personal import Guarded, Personal, SecretBytes
from guestledger.engine.domain.session import Session, WebhookNotice
from guestledger.engine.ports.telemetry import NoTelemetry, RequestPurpose, Telemetry

logger = logging.getLogger("guestledger")

# Other statuses have no defined meaning of `Retry-After` for webhooks: the schedule decides.
_CALL_LATER = frozenset({429, 503})
_HEADERS = {"Content-Type": "application/json"}


class _Started(Guarded, frozen=True, rename="camel"):
    event: WebhookNotice
    session_id: str
    channel_id: str
    fingerprint: Personal
    consent_timestamp: datetime
    timestamp: datetime


class _Withdrawn(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Without the fingerprint: the session's id names what the receiver has."""

    event: WebhookNotice
    session_id: str
    channel_id: str
    consent_timestamp: datetime
    timestamp: datetime


_encoder = msgspec.json.Encoder()


class HttpWebhook:
    """A `WebhookSender`. Use it as an async context manager, once.

    `secret` holds one or several secrets for `Signer`; without it, calls are unsigned. `timeout_ms` limits a whole
    call. Only public addresses are called unless `allow_private`. Raise `ValueError` for an invalid URL or secret,
    without showing it.
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
        telemetry: Telemetry = NoTelemetry(),
    ) -> None:
        self._url = checked_url(url)
        self._signer = None if secret is None else Signer(secret)
        self._socket_factory = None if allow_private else open_public_socket
        self._timeout_ms = timeout_ms
        self._now = now
        self._connections = connections
        self._telemetry = telemetry
        self._warned = False

    async def __aenter__(self) -> Self:
        self._transport = Transport(
            connections=self._connections,
            total_ms=self._timeout_ms,
            headers=_HEADERS,
            socket_factory=self._socket_factory,
            now=self._now,
            telemetry=self._telemetry,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    @property
    def limiter(self) -> str:
        """The receiver's host, without the path, which may be secret."""
        return f"{self._url.host}:{self._url.port} webhook"

    async def send(self, session: Session) -> Delivery:
        """See `WebhookSender.send`. The id is stable over retries and redeliveries; each notice has its own."""
        body = SecretBytes(_encoder.encode(_notice(session)))
        headers = {} if self._signer is None else self._signer.headers(_message_id(session), self._now(), body)
        began = time.perf_counter()
        try:
            answer = await self._transport.send(
                RequestPurpose.WEBHOOK, "POST", self._url, headers, body, read_body=False
            )
        except WIRE_ERRORS as error:
            return self._no_answer(error, _ms_since(began))
        return self._answered(answer, _ms_since(began))

    def _answered(self, answer: Answer, latency_ms: int) -> Delivery:
        status = answer.status
        waits = status in _CALL_LATER and answer.asked.given is not None
        return Delivery(
            accepted=answer.ok,
            gone=status == 410,
            cause=None if answer.ok else _cause(status),
            status=status,
            latency_ms=latency_ms,
            retry_after=answer.asked if waits else None,
        )

    def _no_answer(self, error: Exception, latency_ms: int) -> Delivery:
        cause, detail = cause_of_error(error), self._transport.time_limit(error)
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
            cause, detail = Cause.ADDRESS_REFUSED, error.os_error.kind
            self._warn_once(detail)
        return Delivery(accepted=False, cause=cause, detail=detail, latency_ms=latency_ms)

    def _warn_once(self, kind: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "webhooks are not sent: the receiver's address is %s, not public. "
                "The setting webhook_allow_private permits it.",
                kind,
            )


def _cause(status: int) -> Cause:
    if status == 410:
        return Cause.RECEIVER_GONE
    return Cause.REDIRECTED if 300 <= status < 400 else Cause.NOT_ACCEPTED


def _message_id(session: Session) -> str:
    suffix = "_withdrawn" if session.notice is WebhookNotice.CONSENT_WITHDRAWN else ""
    return f"msg_{session.id.hex}{suffix}"


def _notice(session: Session) -> _Started | _Withdrawn:
    assert session.session_id is not None, "a session that has not started has no notice"
    assert session.created_at is not None
    assert session.guest is not None
    assert session.consent is not None
    if session.notice is WebhookNotice.CONSENT_WITHDRAWN:
        assert session.withdrawn_at is not None
        return _Withdrawn(
            event=session.notice,
            session_id=session.session_id,
            channel_id=session.channel_id,
            consent_timestamp=_whole_seconds(session.consent.timestamp),
            timestamp=_whole_seconds(session.withdrawn_at),
        )
    return _Started(
        event=session.notice,
        session_id=session.session_id,
        channel_id=session.channel_id,
        fingerprint=session.guest.fingerprint,
        consent_timestamp=_whole_seconds(session.consent.timestamp),
        timestamp=_whole_seconds(session.created_at),
    )


def _whole_seconds(moment: datetime) -> datetime:
    """Written as `2024-05-20T14:22:01Z`."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _ms_since(began: float) -> int:
    return round((time.perf_counter() - began) * 1_000)
