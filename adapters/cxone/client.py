"""CXone as a provider: channels and sessions over HTTP."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import quote

from msgspec.structs import replace
from yarl import URL

from guestledger.adapters.cxone.answers import (
    Purpose,
    Reader,
    creation_purpose,
    failure,
    impossible_channel,
    lookup_purpose,
    message_of,
    no_answer,
    token_refused,
    unknown_channel,
)
from guestledger.adapters.cxone.payload import creation_body
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.http.failures import WIRE_ERRORS
from guestledger.adapters.http.token_source import TokenLimiter, TokenSource
from guestledger.adapters.http.transport import Answer, Transport, request_hmac
from guestledger.adapters.http.urls import api_root, under
from guestledger.adapters.single_flight import SingleFlight
from guestledger.engine.domain.outcomes import Channel, Created, CreationOutcome, Failed, LookupOutcome
from guestledger.engine.domain.personal import Secret, SecretBytes
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.ports.provider import BeforeSend, PreparedCreation
from guestledger.engine.ports.telemetry import NoTelemetry, Telemetry

logger = logging.getLogger("guestledger")

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


async def _nothing() -> None: ...


class CXoneClient:
    """A `Provider` that speaks to CXone. Use it as an async context manager, once.

    `url` is the API's root. `rate_limiter` admits requests for tokens. `max_pause_ms`: see `Transport`.
    """

    def __init__(
        self,
        *,
        url: str,
        client_id: str,
        client_secret: str,
        rate_limiter: TokenLimiter,
        profile: Profile | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        connections: int = 256,
        max_pause_ms: int = LimiterPolicy().max_pause_ms,
        telemetry: Telemetry = NoTelemetry(),
    ) -> None:
        self.profile = profile = profile or Profile()
        self._root = api_root(url)
        self._sessions_url = under(self._root, profile.session_path)
        self._credentials = (client_id, Secret(client_secret))
        self._rate_limiter = rate_limiter
        self._now = now
        self._connections = connections
        self._max_pause_ms = max_pause_ms
        self._telemetry = telemetry
        self._creation = creation_purpose(profile)
        self._lookup = lookup_purpose(profile)
        self._reader = Reader(profile)
        self._lookups: SingleFlight[LookupOutcome] = SingleFlight()
        self._warned_of: set[str] = set()
        self._known: dict[str, tuple[Channel, float]] = {}

    async def __aenter__(self) -> Self:
        profile = self.profile
        self._transport = Transport(
            connections=self._connections,
            total_ms=profile.total_ms,
            connect_ms=profile.connect_ms,
            headers=_HEADERS,
            retry_after_header=profile.retry_after_header,
            max_pause_ms=self._max_pause_ms,
            now=self._now,
            telemetry=self._telemetry,
        )
        client_id, client_secret = self._credentials
        self._tokens = TokenSource(
            self._transport,
            url=under(self._root, profile.token_path),
            client_id=client_id,
            client_secret=client_secret,
            limiter=self._limiter(profile.token_quota),
            rate_limiter=self._rate_limiter,
            now=self._now,
            options=profile.token_options,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lookups.close()
        await self._tokens.close()
        await self._transport.close()

    @property
    def creation_limiter(self) -> str:
        """See `Provider.creation_limiter`."""
        return self._limiter(self.profile.session_quota)

    @property
    def lookup_limiter(self) -> str:
        """See `Provider.lookup_limiter`."""
        return self._limiter(self.profile.channel_quota)

    def _limiter(self, quota: str) -> str:
        return f"{self._root.authority} {quota}"

    @property
    def is_ready(self) -> bool:
        """Whether a usable token is cached."""
        return self._tokens.is_fresh

    async def ready(self) -> None:
        """See `Provider.ready`."""
        await self._tokens.token()

    def known_channel(self, channel_id: str) -> Channel | None:
        """See `Provider.known_channel`."""
        known = self._known.get(channel_id)
        if known is None:
            return None
        channel, cached_until = known
        if time.monotonic() < cached_until:
            return channel
        del self._known[channel_id]
        return None

    async def look_up_channel(self, channel_id: str, before_resend: BeforeSend = _nothing) -> LookupOutcome:
        """See `Provider.look_up_channel`. Concurrent look-ups share one request, and the first `before_resend`."""
        return await self._lookups.run(channel_id, lambda: self._look_up(channel_id, before_resend))

    def prepare(self, session: Session) -> PreparedCreation:
        """See `Provider.prepare`."""
        body = SecretBytes(creation_body(session))
        assert session.guest is not None
        key = SecretBytes(bytes.fromhex(session.guest.hmac_key))
        digest = request_hmac(key, "POST", self._sessions_url, body)
        return PreparedCreation(body=body, request_hmac=digest)

    async def create(
        self, prepared: PreparedCreation, idempotency_key: str, before_send: BeforeSend
    ) -> CreationOutcome:
        """See `Provider.create`."""
        began = 0.0

        async def begin() -> None:
            nonlocal began
            await before_send()
            began = time.perf_counter()  # the wait for its turn is no latency of the API

        headers = {"Content-Type": "application/json", self.profile.idempotency_header: idempotency_key}
        answer, token = await self._answer(
            self._creation,
            "POST",
            self._sessions_url,
            headers,
            prepared.body,
            before_send=begin,
            before_resend=before_send,
        )
        if isinstance(answer, Failed):
            return answer
        if not answer.ok:
            return failure(answer, self._creation, message_of(answer, self.profile, token))
        made = self._reader.created(answer, self._creation, round((time.perf_counter() - began) * 1_000))
        if isinstance(made, Created):
            self._warn_of(made.unread)
        return made

    def _warn_of(self, unread: Mapping[str, str]) -> None:
        for name in unread.keys() - self._warned_of:
            self._warned_of.add(name)
            logger.warning(
                "%s: `%s` of a new session cannot be read: %s. Later ones are only in the sessions' histories.",
                *(self._root.authority, name, unread[name]),
            )

    async def _look_up(self, channel_id: str, before_resend: BeforeSend) -> LookupOutcome:
        if channel_id in {".", ".."}:
            # Dots are never percent-encoded (RFC 3986, section 2.3): this would be another path.
            return impossible_channel()
        url = under(self._root, self.profile.channel_path.replace("{channel_id}", quote(channel_id, safe="")))
        answer, token = await self._answer(self._lookup, "GET", url, {}, None, before_resend=before_resend)
        if isinstance(answer, Failed):
            return answer
        now = self._now()
        if answer.ok:
            found = self._reader.channel(answer, self._lookup, channel_id, now)
            if isinstance(found, Channel):
                self._remember(found)
            return found
        message = message_of(answer, self.profile, token)
        if answer.status == 404:
            return unknown_channel(answer, channel_id, message, now)
        return failure(answer, self._lookup, message)

    def _remember(self, channel: Channel) -> None:
        # A problem is not cached: once it is solved, the channel can be used at once.
        if channel.problem is None:
            cached_until = time.monotonic() + self.profile.channel_ttl_ms / 1_000
            self._known[channel.id] = (replace(channel, cached=True, exhausted=None), cached_until)

    async def _answer(
        self,
        purpose: Purpose,
        method: str,
        url: URL,
        headers: dict[str, str],
        body: bytes | None,
        *,
        before_send: BeforeSend = _nothing,
        before_resend: BeforeSend,
    ) -> tuple[Answer | Failed, str]:
        """The answer, and the token of its request. A 401 is replayed once, unless it reports an exhausted quota."""

        async def send(before: BeforeSend) -> tuple[Answer, str]:
            token = await self._tokens.token()
            await before()  # last, as fetching a token may take long
            authorized = {**headers, "Authorization": Secret(f"Bearer {token}")}
            return await self._transport.send(purpose.request, method, url, authorized, body), token

        try:
            answer, token = await send(before_send)
            if answer.status == 401:
                self._tokens.invalidate(token)
                if answer.exhausted is not None:
                    return token_refused(answer.exhausted), token
                answer, token = await send(before_resend)
        except WIRE_ERRORS as error:
            return no_answer(error, purpose, self._transport.time_limit(error)), ""
        return answer, token
