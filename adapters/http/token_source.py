"""The access token: fetched once for all who wait, kept, replaced ahead of its end (contract, "OAuth token")."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from urllib.parse import urlencode

import msgspec
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from yarl import URL

from guestledger.adapters.cxone.answers import WIRE_ERRORS, Answer, TokenAnswer, answer_decoder, cause
from guestledger.adapters.http.single_flight import SingleFlight
from guestledger.adapters.http.transport import Transport
from guestledger.engine.domain.errors import CredentialsRefused, RequestDenied, ServiceError, ServiceUnreachable
from guestledger.engine.domain.feedback import told
from guestledger.engine.domain.personal import Secret, SecretBytes
from guestledger.engine.limits.policy import AdmissionRequest, Denied, Feedback, Observation
from guestledger.engine.limits.retry import read_retry_after
from guestledger.engine.ports.rate_limiter import RateLimiter

TRIES = 3
MAX_WAIT_S = 2.0
"""A longer wait than this at the limiter is the scheduler's business, not that of a caller held up here."""
_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}


class _TryAgain(ServiceUnreachable):
    """No token this time, but perhaps the next."""


class TokenSource:
    """The one place that holds the client secret and the token.

    Each request for a token passes `limiter`, which is asked before it and told of the answer: so a 429 is kept by every process.
    What is told there is only whether the endpoint throttles, and so the limiter is never broken by failures: whoever
    needs a token and gets none rests by itself, and a worker is to learn soon that CXone cannot be reached.
    """

    def __init__(
        self,
        wire: Transport,
        url: URL,
        client_id: str,
        client_secret: str,
        limiters: RateLimiter,
        now: Callable[[], datetime],
    ) -> None:
        profile = wire.profile
        form = {"grant_type": profile.grant, "client_id": client_id, "client_secret": client_secret}
        if profile.token_scope is not None:
            form["scope"] = profile.token_scope
        self._wire = wire
        self._url = url
        self._form = SecretBytes(urlencode(form).encode())
        self._profile = profile
        self._passage = AdmissionRequest(limiter=f"{url.authority} {profile.token_quota}", retry=False, slotted=False)
        self._gates = limiters
        self._untold: Feedback | None = None
        self._now = now
        self._decoder = answer_decoder(TokenAnswer, profile.token_fields)
        self._flight: SingleFlight[str] = SingleFlight()
        self._token = ""
        self._good_until = 0.0  # on the monotonic clock: no change of the wall clock makes a token older or younger

    @property
    def is_fresh(self) -> bool:
        """Whether the token kept is good to use."""
        return bool(self._token) and time.monotonic() < self._good_until

    async def token(self) -> str:
        """A token that is good to use: the one kept, else a new one.

        However many ask at once, one request goes out, and whoever stops waiting does not stop it for the rest.
        Raises `CredentialsRefused`, `RequestDenied` or `ServiceUnreachable`.
        """
        if self.is_fresh:
            return self._token
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
            wait=wait_exponential_jitter(multiplier=backoff_s, jitter=backoff_s),
            retry=retry_if_exception_type(_TryAgain),
            reraise=True,
        )
        return await retrying(self._fetch)

    async def _fetch(self) -> str:
        await self._tell()
        began_at = await self._let_through()
        asked_at = time.monotonic()
        answer = await self._ask()
        self._untold = self._heard(answer, began_at)
        with suppress(ServiceError):  # then it is told before the next request, at the latest
            await self._tell()
        token = self._read(answer)
        # Ahead of the end by 60 s, but never by more than half the lifetime: a token that lives for less than a
        # minute would otherwise count as stale from the first, and every call would fetch another.
        early_s = min(self._profile.token_early_ms / 1_000, token.expires_in / 2)
        self._good_until = asked_at + token.expires_in - early_s
        self._token = Secret(token.access_token)
        return self._token

    async def _let_through(self) -> datetime:
        """When the request for a token that is now to be made begins, by the database's clock. Raises `RequestDenied`."""
        waits = 0
        while isinstance(admitted := await self._gates.admit(self._passage), Denied):
            wait_s = (admitted.until - self._now()).total_seconds()
            if wait_s > MAX_WAIT_S or waits == TRIES:
                raise RequestDenied(f"no access token from {self._url}", self._passage.limiter, admitted)
            await asyncio.sleep(max(0.0, wait_s))
            waits += 1
        return admitted.at

    def _heard(self, answer: Answer, began_at: datetime) -> Feedback:
        asked = read_retry_after(answer.retry_after, answer.date, self._now())
        if answer.status == 429:
            return told(self._passage.limiter, Observation.THROTTLED, began_at, asked, answer.drained)
        heeded = asked if answer.status >= 500 and asked.given is not None else None
        return told(self._passage.limiter, Observation.SUCCESS, began_at, heeded, answer.drained)

    async def _tell(self) -> None:
        """Let the limiter observe the last answer, if it has not yet."""
        if self._untold is not None:
            await self._gates.observe(self._untold)
            self._untold = None

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
            raise _TryAgain(f"no access token from {self._url}: throttled (HTTP 429)")
        if status >= 500:
            raise _TryAgain(f"no access token from {self._url}: CXone is failing (HTTP {status}); try again later")
        if not answer.ok:
            raise ServiceUnreachable(f"no access token from {self._url}: HTTP {status}; check GUESTLEDGER_CXONE_URL")
        return self._decode(answer)

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
