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

from guestledger.adapters.http.answers import UNREADABLE, read_field, read_fields, server_message
from guestledger.adapters.http.failures import WIRE_ERRORS, cause_of_error, cause_of_status, is_temporary
from guestledger.adapters.http.token_lifetime import lifetime_s
from guestledger.adapters.http.transport import Answer, Transport
from guestledger.adapters.single_flight import SingleFlight
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import CredentialsRefused, RequestDenied, ServiceError, ServiceUnreachable
from guestledger.engine.domain.personal import Secret, SecretBytes
from guestledger.engine.limits.admission import AdmissionRequest, Admitted, Denied
from guestledger.engine.limits.feedback import Feedback, Observation, feedback
from guestledger.engine.ports.telemetry import RequestPurpose

SERVICE = "token endpoint"
MAX_TRIES = 3
MAX_WAIT_S = 2.0
"""A longer wait for the limiter is the scheduler's: `RequestDenied`."""

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0
"""Between failures, in which no request is sent. It doubles with each failure in a row."""

_REFUSALS = {
    "invalid_client": Cause.UNAUTHORIZED,
    "invalid_scope": Cause.SCOPE_REFUSED,
    "unauthorized_client": Cause.GRANT_REFUSED,
    "unsupported_grant_type": Cause.GRANT_REFUSED,
}
"""By the error's code (RFC 6749, section 5.2)."""

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
    callers have their own backoff. While they last, callers get the last one, or the token until it expires.
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
        self._secret = Secret(client_secret)
        self._form = SecretBytes(urlencode(form).encode())
        self._request = AdmissionRequest(limiter=limiter, retry=False, reserved=False)
        self._rate_limiter = rate_limiter
        self._unobserved: Feedback | None = None
        self._now = now
        self._flight: SingleFlight[str] = SingleFlight()
        self._token = ""
        # Monotonic: changes of the wall clock do not age a token.
        self._fresh_until = self._expires_at = self._retry_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._failure: ServiceError | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether the cached token can be used: until it expires, if it could not be replaced before."""
        now = time.monotonic()
        return bool(self._token) and now < (self._expires_at if now < self._retry_at else self._fresh_until)

    async def token(self) -> str:
        """The cached token, else a new one. Concurrent callers share one request.

        Raise `CredentialsRefused`, `RequestDenied` or `ServiceUnreachable`.
        """
        if self.is_fresh:
            return self._token
        if self._failure is not None and time.monotonic() < self._retry_at:
            raise self._failure.with_accepted(None)  # a copy: one for all would collect their tracebacks
        return await self._flight.run("token", self._replace)

    def invalidate(self, token: str) -> None:
        """Forget `token`, which the provider refused. A newer one stays: many 401s cause one refresh."""
        if token == self._token:
            self._token = ""

    async def close(self) -> None:
        """Cancel a request in progress."""
        await self._flight.close()

    async def _replace(self) -> str:
        try:
            token = await self._fetch_with_retries()
        except ServiceError as error:
            self._pause(error)
            if self.is_fresh:
                return self._token
            raise
        self._failure, self._pause_s, self._retry_at = None, FIRST_PAUSE_S, 0.0
        return token

    def _pause(self, error: ServiceError) -> None:
        if isinstance(error, CredentialsRefused):
            self._token = ""
        self._retry_at = time.monotonic() + self._pause_s
        # If nothing was sent, callers ask again: a limiter has times of its own.
        sent = error.service == SERVICE and not isinstance(error, RequestDenied)
        self._failure = error.with_accepted(None) if sent else None
        if sent:
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

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
        token, lives_s = self._read(answer)
        # Else a token that lives for less than a minute would never be fresh.
        early_s = min(self._options.refresh_early_ms / 1_000, lives_s / 2)
        self._expires_at = asked_at + lives_s
        self._fresh_until = self._expires_at - early_s
        self._token = token
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
        pause = asked if is_temporary(answer.status) and asked.given is not None else None
        return feedback(limiter, Observation.SUCCESS, began_at, asked=pause, exhausted=exhausted)

    async def _observe(self) -> None:
        if self._unobserved is not None:
            await self._rate_limiter.observe(self._unobserved)
            self._unobserved = None

    async def _ask(self) -> Answer:
        try:
            return await self._transport.send(RequestPurpose.TOKEN, "POST", self._url, _HEADERS, self._form)
        except WIRE_ERRORS as error:
            cause, detail = cause_of_error(error), self._detail(self._transport.time_limit(error))
        # Outside the handler: aiohttp's error, which may quote the request, must not become the context.
        raise _Retryable(SERVICE, cause, detail)

    def _read(self, answer: Answer) -> tuple[str, float]:
        """The token and its lifetime in seconds."""
        if answer.ok:
            return self._token_of(answer)
        status = answer.status
        code, said = self._said(answer)
        detail = self._detail(f"HTTP {status}", said)
        if status in (400, 401, 403):
            raise CredentialsRefused(SERVICE, _REFUSALS.get(code, cause_of_status(status)), detail)
        if is_temporary(status):
            raise _Retryable(SERVICE, cause_of_status(status), detail)
        raise ServiceUnreachable(SERVICE, cause_of_status(status), detail)

    def _token_of(self, answer: Answer) -> tuple[str, float]:
        names = self._options.fields
        try:
            fields = read_fields(answer.body)
        except UNREADABLE as error:
            raise ServiceUnreachable(SERVICE, Cause.UNREADABLE_ANSWER, self._detail(str(error))) from None
        token = read_field(fields, names.access_token, BearerToken)
        kind = read_field(fields, names.token_type, str) or "bearer"
        if token is not None and kind.lower().startswith("bearer"):  # Apigee sends `BearerToken`
            return Secret(token), lifetime_s(fields, names.expires_in, self._now())
        code, said = self._said(answer)
        if token is None and code:
            raise CredentialsRefused(SERVICE, _REFUSALS.get(code, Cause.REJECTED), self._detail(said))
        if token is None:
            why = f"{names.access_token} cannot be read" if names.access_token in fields else f"no {names.access_token}"
        else:
            why = f"the token is not a bearer token but {kind[:32]!a}"
        raise ServiceUnreachable(SERVICE, Cause.UNREADABLE_ANSWER, self._detail(why))

    def _said(self, answer: Answer) -> tuple[str, str]:
        """The error's code (RFC 6749, section 5.2), and what the server says about it. Without secrets."""
        code, text = (
            server_message(answer.body, names, self._secret) for names in (("error",), ("error_description", "message"))
        )
        return code, ": ".join(filter(None, (code, text)))

    def _detail(self, *facts: str) -> str:
        return ", ".join(filter(None, (f"{self._url.host}:{self._url.port}", *facts)))
