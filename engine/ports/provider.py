"""The provider of messaging sessions."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from guestledger.engine.domain.outcomes import Channel, CreationOutcome, LookupOutcome
from guestledger.engine.domain.personal import Guarded, Personal, PersonalBytes
from guestledger.engine.domain.session import Session

BeforeSend = Callable[[], Awaitable[None]]


class PreparedCreation(Guarded, frozen=True, kw_only=True):
    """A creation request, ready to be sent. `request_sha256` (hex) covers its method, URL and body."""

    body: PersonalBytes
    request_sha256: Personal


class Provider(Protocol):
    """A contact centre's API. It knows its own hosts, authentication, paths and wire names."""

    @property
    def creation_limiter(self) -> str:
        """The limiter that creations pass."""
        ...

    @property
    def lookup_limiter(self) -> str:
        """The limiter that channel look-ups pass."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a request can be sent at once. No I/O."""
        ...

    async def ready(self) -> None:
        """Get what a request needs, such as a token. Raises `CredentialsRefused`, `RequestDenied`, `ServiceUnreachable`."""
        ...

    def known_channel(self, channel_id: str) -> Channel | None:
        """A remembered answer about the channel. No I/O."""
        ...

    async def look_up_channel(self, channel_id: str, before_resend: BeforeSend) -> LookupOutcome:
        """Ask what the channel is. `before_resend` is awaited before the request is sent a second time.

        Raises what that raises, and as `ready` does.
        """
        ...

    def prepare(self, session: Session) -> PreparedCreation:
        """The creation request for the next attempt of `session`. Pure."""
        ...

    async def create(
        self, prepared: PreparedCreation, idempotency_key: str, before_send: BeforeSend
    ) -> CreationOutcome:
        """Send it. `before_send` is awaited right before each time it is sent.

        Network errors are outcomes. Raises what `before_send` raises, and as `ready` does: nothing was made then.
        """
        ...
