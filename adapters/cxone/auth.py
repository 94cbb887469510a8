"""The access token: fetched once for all who wait, kept, replaced ahead of its end (contract, "OAuth token")."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlencode

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exception, wait_exponential_jitter
from yarl import URL

from adapters.cxone.answers import WIRE_ERRORS, Answer, TokenAnswer, answer_decoder, cause
from adapters.cxone.flight import SingleFlight
from adapters.cxone.wire import Wire
from engine.domain.errors import CredentialsRefused, ServiceUnreachable
from engine.domain.retry import read_retry_after

TRIES = 3
LONGEST_WAIT_S = 2.0
"""A token endpoint that asks for a longer wait gets it from the scheduler, not from a caller held up here."""
_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}


class _TryAgain(ServiceUnreachable):
    """No token this time, but perhaps the next, `wait_s` seconds from now at the earliest."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def _asked_wait_s(error: BaseException) -> float:
    return error.wait_s if isinstance(error, _TryAgain) else 0.0


class TokenSource:
    """The one place that holds the client secret and the token."""

    def __init__(
        self,
        wire: Wire,
        url: URL,
        client_id: str,
        client_secret: str,
        now: Callable[[], datetime],
    ) -> None:
        profile = wire.profile
        form = {"grant_type": profile.grant, "client_id": client_id, "client_secret": client_secret}
        if profile.token_scope is not None:
            form["scope"] = profile.token_scope
        self._wire = wire
        self._url = url
        self._form = urlencode(form).encode()
        self._profile = profile
        self._now = now
        self._decoder = answer_decoder(TokenAnswer, profile.token_fields)
        self._flight: SingleFlight[str] = SingleFlight()
        self._token = ""
        self._not_before = 0.0  # on the monotonic clock: what the endpoint's last 429 asked for
        self._good_until = 0.0  # on the monotonic clock: no change of the wall clock makes a token older or younger

    @property
    def is_fresh(self) -> bool:
        """Whether the token kept is good to use."""
        return bool(self._token) and time.monotonic() < self._good_until

    async def token(self) -> str:
        """A token that is good to use: the one kept, else a new one.

        However many ask at once, one request goes out, and whoever stops waiting does not stop it for the rest.
        Raises `CredentialsRefused` or `ServiceUnreachable`.
        """
        if self.is_fresh:
            return self._token
        if (wait_s := self._not_before - time.monotonic()) > LONGEST_WAIT_S:
            raise ServiceUnreachable(f"no access token from {self._url}: throttled; try again in {wait_s:.0f} s")
        return await self._flight.run("token", self._fetch_with_retries)

    def invalidate(self, token: str) -> None:
        """Forget `token`, which CXone refused. Another one, got in the meantime, stays: so many 401s make one refresh."""
        if token == self._token:
            self._token = ""

    async def close(self) -> None:
        """Stop a request under way."""
        await self._flight.close()

    async def _fetch_with_retries(self) -> str:
        backoff_s = self._profile.token_backoff_ms / 1_000
        retrying = AsyncRetrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential_jitter(multiplier=backoff_s, jitter=backoff_s) + wait_exception(_asked_wait_s),
            retry=retry_if_exception_type(_TryAgain),
            reraise=True,
        )
        return await retrying(self._fetch)

    async def _fetch(self) -> str:
        # Whoever comes anew while little is left of a wait that the endpoint asked for waits that out here.
        await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
        asked_at = time.monotonic()
        token = self._read(await self._ask())
        # Ahead of the end by 60 s, but never by more than half the lifetime: a token that lives for less than a
        # minute would otherwise count as stale from the first, and every call would fetch another.
        early_s = min(self._profile.token_early_ms / 1_000, token.expires_in / 2)
        self._good_until = asked_at + token.expires_in - early_s
        self._token = token.access_token
        return token.access_token

    async def _ask(self) -> Answer:
        try:
            return await self._wire.send("POST", self._url, _HEADERS, self._form)
        except WIRE_ERRORS as error:
            reason = cause(error, self._profile)
        # Raised out here, so that aiohttp's error, which may quote the request, does not hang on it as its context.
        raise _TryAgain(f"no access token from {self._url}: {reason}")

    def _read(self, answer: Answer) -> TokenAnswer:
        status = answer.status
        if status in (400, 401, 403):
            raise CredentialsRefused(
                f"CXone at {self._url.host} refused the client's credentials (HTTP {status}): "
                "check GUESTLEDGER_CXONE_CLIENT_ID and GUESTLEDGER_CXONE_CLIENT_SECRET"
            )
        if status == 429:
            raise self._throttled(answer)
        if status >= 500:
            raise _TryAgain(f"no access token from {self._url}: CXone is failing (HTTP {status}); try again later")
        if not answer.ok:
            raise ServiceUnreachable(f"no access token from {self._url}: HTTP {status}; check GUESTLEDGER_CXONE_URL")
        return self._decode(answer)

    def _throttled(self, answer: Answer) -> ServiceUnreachable:
        wait_s = read_retry_after(answer.retry_after, answer.date, self._now()).ms / 1_000
        self._not_before = time.monotonic() + wait_s
        message = f"no access token from {self._url}: throttled (HTTP 429); try again in {wait_s:g} s"
        return _TryAgain(message, wait_s) if wait_s <= LONGEST_WAIT_S else ServiceUnreachable(message)

    def _decode(self, answer: Answer) -> TokenAnswer:
        try:
            token = self._decoder.decode(answer.body or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            reason = str(error)
        else:
            if token.token_type.lower() == "bearer":
                return token
            reason = "the token is not a bearer token"
        raise ServiceUnreachable(
            f"no access token from {self._url}: the answer cannot be read ({reason}); check GUESTLEDGER_CXONE_URL"
        )
