"""The provider: the service at which guest sessions are opened."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from guestledger.engine.domain.outcomes import Channel, CreationOutcome, LookupOutcome
from guestledger.engine.domain.personal import Guarded, Personal, PersonalBytes
from guestledger.engine.domain.session import Session

BeforeSend = Callable[[], Awaitable[None]]
"""Awaited right before a request is sent. What it raises stops the request and is raised to the caller."""


class PreparedCreation(Guarded, frozen=True, kw_only=True):
    """A creation request, ready to be sent."""

    body: PersonalBytes
    request_sha256: Personal
    """Over method, URL and body (hex)."""


class Provider(Protocol):
    """Channels and sessions at one provider.

    Hosts, methods, authentication, the place of ids and keys, and the form of answers are the adapter's. A request
    that fails is an outcome. Only what precedes the request raises: `CredentialsRefused`, `RequestDenied` by a
    limiter of the adapter's own, or `ServiceUnreachable`; the request was not sent then.
    """

    @property
    def creation_limiter(self) -> str:
        """The limiter that creations pass: the API's host and the scope of its quota."""
        ...

    @property
    def lookup_limiter(self) -> str:
        """The limiter that channel look-ups pass."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a request can be sent without fetching credentials first. No I/O."""
        ...

    async def ready(self) -> None:
        """Fetch what requests need, such as a token. Nothing if they need nothing."""
        ...

    def known_channel(self, channel_id: str) -> Channel | None:
        """A cached answer about a usable channel. No I/O."""
        ...

    async def look_up_channel(self, channel_id: str, before_resend: BeforeSend) -> LookupOutcome:
        """Look a channel up. `before_resend` precedes each send but the first."""
        ...

    def prepare(self, session: Session) -> PreparedCreation:
        """The creation request for the next attempt of `session`. Pure.

        If the idempotency key (the session's id) is part of the body, the body is the same for every attempt.
        """
        ...

    async def create(
        self, prepared: PreparedCreation, idempotency_key: str, before_send: BeforeSend
    ) -> CreationOutcome:
        """Send a creation request. `before_send` precedes each send."""
        ...
