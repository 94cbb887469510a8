"""An OAuth client-credentials token, fetched once for all callers."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import Meta
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)
from yarl import URL

from guestledger.adapters.http.answers import UNREADABLE, answer_decoder
from guestledger.adapters.http.failures import WIRE_ERRORS, cause_of_error, cause_of_status
from guestledger.adapters.http.single_flight import SingleFlight
from guestledger.adapters.http.transport import Answer, Transport
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import CredentialsRefused, RequestDenied, ServiceError, ServiceUnreachable
from guestledger.engine.domain.personal import Guarded, Secret, SecretBytes
from guestledger.engine.limits.admission import AdmissionRequest, Admitted, Denied
from guestledger.engine.limits.feedback import Feedback, Observation, feedback

SERVICE = "token endpoint"
MAX_TRIES = 3
MAX_WAIT_S = 2.0
"""A longer wait for the limiter is the scheduler's: `RequestDenied`."""

_HEADERS = {"Content-Type": "application/x-www-form-urlencoded"}
BearerToken = Annotated[str, Meta(max_length=16_384, pattern=r"^[\x21-\x7e]+\Z", extra={"personal": True})]
"""RFC 6750, section 2.1: it cannot break out of a header."""


class TokenFields(msgspec.Struct, frozen=True, kw_only=True):
    """The names of a token's fields."""

    access_token: str = "access_token"  # noqa: S105 - a name, not a token
    token_type: str = "token_type"  # noqa: S105
    expires_in: str = "expires_in"


class TokenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between token endpoints."""

    grant: str = "client_credentials"
    scope: str | None = None
    fields: TokenFields = TokenFields()
    refresh_early_ms: int = 60_000
    """Before expiry; at most half the lifetime."""
    backoff_ms: int = 100
    """The first wait between tries. It doubles, with jitter on top."""


class TokenAnswer(Guarded, frozen=True, kw_only=True):
    """A token. `expires_in` is its lifetime in seconds."""

    access_token: BearerToken
    token_type: str = "Bearer"  # noqa: S105 - a kind, not a token
    expires_in: Annotated[float, Meta(gt=0)]


class TokenLimiter(Protocol):
    """What a token source needs of a rate limiter."""

    async def admit(self, request: AdmissionRequest, /) -> Admitted | Denied:
        """Admit or deny a request."""
        ...

    async def observe(self, feedback: Feedback, /) -> None:
        """Record feedback."""
        ...


class _Retryable(ServiceUnreachable):
    """The next try may succeed."""


class TokenSource:
    """The only holder of the client secret and the token.

    Requests pass the limiter named `limiter`: every process respects a 429. Failures never open its circuit, as
    callers have their own backoff.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        url: URL,
        client_id: str,
        client_secret: str,
        limiter: str,
        rate_limiter: TokenLimiter,
        now: Callable[[], datetime],
        options: TokenOptions | None = None,
    ) -> None:
        self._options = options = options or TokenOptions()
        form = {"grant_type": options.grant, "client_id": client_id, "client_secret": client_secret}
        if options.scope is not None:
            form["scope"] = options.scope
        self._transport = transport
        self._url = url
        self._form = SecretBytes(urlencode(form).encode())
        self._request = AdmissionRequest(limiter=limiter, retry=False, reserved=False)
        self._rate_limiter = rate_limiter
        self._unobserved: Feedback | None = None
        self._now = now
        self._decoder = answer_decoder(TokenAnswer, options.fields)
        self._flight: SingleFlight[str] = SingleFlight()
        self._token = ""
        self._fresh_until = 0.0  # monotonic: changes of the wall clock do not age a token

    @property
    def is_fresh(self) -> bool:
        """Whether the cached token can be used."""
        return bool(self._token) and time.monotonic() < self._fresh_until

    async def token(self) -> str:
        """The cached token, else a new one. Concurrent callers share one request.

        Raise `CredentialsRefused`, `RequestDenied` or `ServiceUnreachable`.
        """
        if self.is_fresh:
            return self._token
        return await self._flight.run("token", self._fetch_with_retries)

    def invalidate(self, token: str) -> None:
        """Forget `token`, which the provider refused. A newer one stays: many 401s cause one refresh."""
        if token == self._token:
            self._token = ""

    async def close(self) -> None:
        """Cancel a request in progress."""
        await self._flight.close()

    async def _fetch_with_retries(self) -> str:
        backoff_s = self._options.backoff_ms / 1_000
        retrying = AsyncRetrying(
            stop=stop_after_attempt(MAX_TRIES),
            wait=wait_exponential_jitter(multiplier=backoff_s, jitter=backoff_s),
            retry=retry_if_exception_type(_Retryable),
            reraise=True,
        )
        return await retrying(self._fetch)

    async def _fetch(self) -> str:
        await self._observe()
        began_at = await self._admitted()
        asked_at = time.monotonic()
        answer = await self._ask()
        self._unobserved = self._feedback(answer, began_at)
        with suppress(ServiceError):  # observed before the next request instead
            await self._observe()
        token = self._read(answer)
        # Else a token that lives for less than a minute would never be fresh.
        early_s = min(self._options.refresh_early_ms / 1_000, token.expires_in / 2)
        self._fresh_until = asked_at + token.expires_in - early_s
        self._token = Secret(token.access_token)
        return self._token

    async def _admitted(self) -> datetime:
        """When the limiter admitted the request."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(MAX_TRIES + 1),
            wait=self._wait_s,
            retry=retry_if_exception(lambda error: self._denied_s(error) <= MAX_WAIT_S),
            reraise=True,
        )
        return await retrying(self._admit)

    async def _admit(self) -> datetime:
        admitted = await self._rate_limiter.admit(self._request)
        if isinstance(admitted, Denied):
            raise RequestDenied(SERVICE, self._request.limiter, admitted)
        return admitted.at

    def _wait_s(self, tries: RetryCallState) -> float:
        error = tries.outcome.exception() if tries.outcome else None
        return max(0.0, self._denied_s(error))

    def _denied_s(self, error: BaseException | None) -> float:
        """Infinite for errors other than denials."""
        if isinstance(error, RequestDenied):
            return (error.denied.until - self._now()).total_seconds()
        return float("inf")

    def _feedback(self, answer: Answer, began_at: datetime) -> Feedback:
        asked = answer.asked
        limiter, exhausted = self._request.limiter, answer.exhausted
        if answer.status == 429:
            return feedback(limiter, Observation.THROTTLED, began_at, asked=asked, exhausted=exhausted)
        pause = asked if answer.status >= 500 and asked.given is not None else None
        return feedback(limiter, Observation.SUCCESS, began_at, asked=pause, exhausted=exhausted)

    async def _observe(self) -> None:
        if self._unobserved is not None:
            await self._rate_limiter.observe(self._unobserved)
            self._unobserved = None

    async def _ask(self) -> Answer:
        try:
            return await self._transport.send("POST", self._url, _HEADERS, self._form)
        except WIRE_ERRORS as error:
            cause, detail = cause_of_error(error), self._detail(self._transport.time_limit(error))
        # Outside the handler: aiohttp's error, which may quote the request, must not become the context.
        raise _Retryable(SERVICE, cause, detail)

    def _read(self, answer: Answer) -> TokenAnswer:
        if answer.ok:
            return self._decode(answer.body or b"")
        status = answer.status
        cause, detail = cause_of_status(status), self._detail(f"HTTP {status}")
        if status in (400, 401, 403):
            raise CredentialsRefused(SERVICE, cause, detail)
        if status == 429 or status >= 500:
            raise _Retryable(SERVICE, cause, detail)
        raise ServiceUnreachable(SERVICE, cause, detail)

    def _decode(self, body: bytes) -> TokenAnswer:
        try:
            token = self._decoder.decode(body)
        except UNREADABLE as error:
            reason = str(error)
        else:
            if token.token_type.lower() == "bearer":
                return token
            reason = "the token is not a bearer token"
        raise ServiceUnreachable(SERVICE, Cause.UNREADABLE_ANSWER, self._detail(reason))

    def _detail(self, fact: str) -> str:
        host = f"{self._url.host}:{self._url.port}"
        return f"{host}, {fact}" if fact else host
