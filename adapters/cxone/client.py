"""CXone as the engine sees it: channels and sessions over HTTP."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType
from typing import Self
from urllib.parse import quote

import msgspec
from msgspec.structs import replace
from yarl import URL

from guestledger.adapters.cxone.answers import (
    WIRE_ERRORS,
    Answer,
    ChannelAnswer,
    Purpose,
    SessionAnswer,
    answer_decoder,
    failure,
    no_answer,
    unreadable,
)
from guestledger.adapters.cxone.payload import creation_body
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.http.single_flight import SingleFlight
from guestledger.adapters.http.token_source import TokenSource
from guestledger.adapters.http.transport import Transport
from guestledger.engine.domain.creation import PROTOCOL
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.outcomes import Channel, Created, CreationOutcome, Failed, LookupOutcome, Throttled
from guestledger.engine.domain.personal import Secret, SecretBytes
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.ports.provider import PreparedCreation
from guestledger.engine.ports.rate_limiter import RateLimiter

Check = Callable[[], Awaitable[None]]


async def _unchecked() -> None: ...


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError)


class CXoneClient:
    """A `Provider` that speaks to CXone. Use it as an async context manager, once.

    `url` is the API's root (`https://host[:port][/prefix]`); requests for a token pass one of the `limiters`; `now` gives the time in UTC; `connections` is the most
    that are open at once. Raises `ValueError` when `url` is not such a root.
    """

    def __init__(
        self,
        *,
        url: str,
        client_id: str,
        client_secret: str,
        limiters: RateLimiter,
        profile: Profile | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        connections: int = 256,
    ) -> None:
        self.profile = profile = profile or Profile()
        self._root = _api_root(url)
        host = URL(self._root).authority
        self._creation_limiter = f"{host} {profile.session_quota}"
        self._lookup_limiter = f"{host} {profile.channel_quota}"
        self._credentials = (client_id, Secret(client_secret))
        self._gates = limiters
        self._now = now
        self._connections = connections
        self._sessions_url = URL(self._root + profile.session_path, encoded=True)
        fault = FailureKind.IN_DOUBT if profile.server_error_in_doubt else FailureKind.UNAVAILABLE
        self._creation = Purpose(
            name="session creation", scope=profile.session_scope, lost=FailureKind.IN_DOUBT, fault=fault
        )
        self._lookup = Purpose(
            name="channel look-up",
            scope=profile.channel_scope,
            lost=FailureKind.UNAVAILABLE,
            fault=FailureKind.UNAVAILABLE,
        )
        self._channel_decoder = answer_decoder(ChannelAnswer, profile.channel_fields)
        self._session_decoder = answer_decoder(SessionAnswer, profile.session_fields)
        self._lookups: SingleFlight[LookupOutcome] = SingleFlight()
        self._known: dict[str, tuple[Channel, float]] = {}

    async def __aenter__(self) -> Self:
        self._wire = Transport(self.profile, self._connections)
        token_url = URL(self._root + self.profile.token_path, encoded=True)
        self._tokens = TokenSource(self._wire, token_url, *self._credentials, self._gates, self._now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lookups.close()
        await self._tokens.close()
        await self._wire.close()

    @property
    def creation_limiter(self) -> str:
        """The limiter that creations pass."""
        return self._creation_limiter

    @property
    def lookup_limiter(self) -> str:
        """The limiter that channel look-ups pass."""
        return self._lookup_limiter

    def known_channel(self, channel_id: str) -> Channel | None:
        """A usable channel that was looked up less than `channel_ttl_ms` ago, marked as cached."""
        known = self._known.get(channel_id)
        if known is None:
            return None
        channel, good_until = known
        if time.monotonic() < good_until:
            return channel
        del self._known[channel_id]
        return None

    @property
    def is_ready(self) -> bool:
        """Whether a token is at hand, so that a request can be sent at once."""
        return self._tokens.is_fresh

    async def ready(self) -> None:
        """See that a token is at hand. Raises `CredentialsRefused`, `RequestDenied` or `ServiceUnreachable`."""
        await self._tokens.token()

    async def look_up_channel(self, channel_id: str, again: Check = _unchecked) -> LookupOutcome:
        """Ask CXone what the channel is; those who ask for the same one at once share the answer.

        Only a usable channel is remembered. `again`, of whoever asked first, is called right before it is asked again after
        a 401. Raises what that raises, and `CredentialsRefused`, `RequestDenied` or `ServiceUnreachable` when no token is to be had.
        Nobody's lease is to be looked at there: those who share it have one each, and it changes nothing at CXone.
        """
        return await self._lookups.run(channel_id, lambda: self._look_up(channel_id, again))

    def prepare(self, session: Session) -> PreparedCreation:
        """The creation request for the next attempt of `session`. Pure."""
        body = SecretBytes(creation_body(session))
        return PreparedCreation(body=body, sha256=sha256(body).hexdigest())

    async def create(self, prepared: PreparedCreation, idempotency_key: str, check: Check) -> CreationOutcome:
        """Send it. `check` is called right before each time that it is sent, be it again after a 401.

        Whatever the wire does to it is an outcome. Raises what `check` raises, and `CredentialsRefused`, `RequestDenied` or
        `ServiceUnreachable` when no token is to be had, be it before the first time or after a 401: either way CXone has
        made nothing.
        """
        began = time.perf_counter()
        headers = {"Content-Type": "application/json", self.profile.idempotency_header: idempotency_key}
        answer = await self._asked(
            self._creation, "POST", self._sessions_url, headers, prepared.body, check=check, again=check
        )
        if not isinstance(answer, Answer):
            return answer
        return self._created(answer, round((time.perf_counter() - began) * 1_000))

    def _created(self, answer: Answer, latency_ms: int) -> Created | Failed:
        try:
            made = self._session_decoder.decode(answer.body or b"")
            expires_at = made.expires_at.astimezone(UTC)
        except _UNREADABLE as error:
            return unreadable(answer, self._creation, str(error))
        return Created(
            session_id=made.session_id,
            guest_token=made.token,
            expires_at=expires_at,
            status=made.status,
            latency_ms=latency_ms,
            drained=answer.drained,
        )

    async def _look_up(self, channel_id: str, again: Check) -> LookupOutcome:
        if channel_id in {".", ".."}:
            # Dots are never percent-encoded (RFC 3986, section 2.3): these two would climb to another path.
            return Failed(
                kind=FailureKind.REJECTED, status=None, message=f"{channel_id!r} is no channel id: check the id"
            )
        path = self.profile.channel_path.replace("{channel_id}", quote(channel_id, safe=""))
        answer = await self._asked(self._lookup, "GET", URL(self._root + path, encoded=True), {}, None, again=again)
        if not isinstance(answer, Answer):
            return answer
        try:
            found = self._channel_decoder.decode(answer.body or b"")
        except _UNREADABLE as error:
            return unreadable(answer, self._lookup, str(error))
        channel = Channel(id=channel_id, status=found.status, protocols=found.protocols, looked_up_at=self._now())
        self._remember(channel)
        return replace(channel, drained=answer.drained)

    def _remember(self, channel: Channel) -> None:
        # One that is not usable now may be made so the next minute, and whoever did that will not want to wait.
        if channel.status == "active" and PROTOCOL in channel.protocols:
            good_until = time.monotonic() + self.profile.channel_ttl_ms / 1_000
            self._known[channel.id] = (replace(channel, cached=True), good_until)

    async def _asked(
        self,
        purpose: Purpose,
        method: str,
        url: URL,
        headers: dict[str, str],
        body: bytes | None,
        *,
        check: Check = _unchecked,
        again: Check,
    ) -> Answer | Throttled | Failed:
        """The answer where it is a success, else what it means. A 401 is replayed once, with a fresh token; the second one stands.

        To fetch a token may take long, so `check` and, for the replay, `again` are called when there is one. An API that
        with its 401 wants to be left in peace gets no replay.
        """

        async def send(check: Check) -> tuple[Answer, str]:
            token = await self._tokens.token()
            await check()
            authorized = {**headers, "Authorization": Secret(f"Bearer {token}")}
            return await self._wire.send(method, url, authorized, body), token

        try:
            answer, token = await send(check)
            if answer.status == 401:
                self._tokens.invalidate(token)
                if answer.drained is not None:
                    return _left_in_peace(purpose, answer.drained)
                answer, token = await send(again)
        except WIRE_ERRORS as error:
            return no_answer(error, purpose, self.profile)
        return answer if answer.ok else failure(answer, purpose, self.profile, token, self._now())


def _left_in_peace(purpose: Purpose, drained: ExhaustedQuota) -> Failed:
    message = (
        f"CXone refused the token of the {purpose.name} (HTTP 401), which is not sent again at once: {drained.why}"
    )
    return Failed(kind=FailureKind.UNAVAILABLE, status=401, message=message, drained=drained)


def _api_root(url: str) -> str:
    """`url` without a trailing slash. The text of the error shows nothing of it: it may hold a password."""
    try:
        root = URL(url)
        fits = root.scheme in {"http", "https"} and bool(root.host) and root.port is not None
        fits = fits and root.user is None and root.password is None and not root.query_string and not root.fragment
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            "GUESTLEDGER_CXONE_URL must be the root of the API, such as https://api.example.com: "
            "http or https, a host, and neither user, password, query nor fragment"
        )
    return str(root).rstrip("/")
