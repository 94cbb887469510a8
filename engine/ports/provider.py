"""The provider: the service at which guest sessions are opened."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from guestledger.engine.domain.outcomes import Channel, CreationOutcome, LookupOutcome
from guestledger.engine.domain.personal import Guarded, PersonalBytes
from guestledger.engine.domain.session import Session

BeforeSend = Callable[[], Awaitable[None]]
"""Awaited right before a request is sent. If it raises, nothing is sent."""


class PreparedCreation(Guarded, frozen=True, kw_only=True):
    """A creation request, ready to be sent."""

    body: PersonalBytes
    request_hmac: str
    """HMAC-SHA-256 (hex) over method, URL and body, under the guest's `hmac_key`."""


class Provider(Protocol):
    """Channels and sessions at one provider.

    A failed request is an outcome. What precedes it, such as a token, may raise `CredentialsRefused`, `RequestDenied`
    or `ServiceUnreachable`.
    """

    @property
    def creation_limiter(self) -> str:
        """The limiter that creations pass: host and quota."""
        ...

    @property
    def lookup_limiter(self) -> str:
        """The limiter that channel look-ups pass."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether requests can be sent at once. No I/O."""
        ...

    async def ready(self) -> None:
        """Fetch what requests need, such as a token."""
        ...

    def known_channel(self, channel_id: str) -> Channel | None:
        """A cached, usable channel. No I/O."""
        ...

    async def look_up_channel(self, channel_id: str, before_resend: BeforeSend) -> LookupOutcome:
        """Look a channel up. `before_resend` precedes each send but the first."""
        ...

    def prepare(self, session: Session) -> PreparedCreation:
        """The request for the next attempt. With an idempotency key in the body, the same for every attempt. Pure."""
        ...

    async def create(
        self, prepared: PreparedCreation, idempotency_key: str, before_send: BeforeSend
    ) -> CreationOutcome:
        """Send a creation request. `before_send` precedes each send."""
        ...
