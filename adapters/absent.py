"""What stands in for a service that the settings do not name."""

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.outcomes import Channel, CreationOutcome, Delivery, LookupOutcome
from guestledger.engine.domain.session import Session
from guestledger.engine.ports.provider import BeforeSend, PreparedCreation


class NoProvider:
    """Accepts requests and reads everything, but opens nothing."""

    is_ready = False
    creation_limiter = lookup_limiter = ""

    def known_channel(self, _channel_id: str) -> Channel | None:
        """See `Provider.known_channel`."""
        return None

    async def ready(self) -> None:
        """See `Provider.ready`."""
        raise ServiceUnreachable("provider", Cause.NOT_CONFIGURED)

    async def look_up_channel(self, _channel_id: str, _before_resend: BeforeSend) -> LookupOutcome:
        """See `Provider.look_up_channel`."""
        await self.ready()
        raise AssertionError

    def prepare(self, _session: Session) -> PreparedCreation:
        """See `Provider.prepare`."""
        return PreparedCreation(body=b"", request_hmac="")

    async def create(
        self, _prepared: PreparedCreation, _idempotency_key: str, _before_send: BeforeSend
    ) -> CreationOutcome:
        """See `Provider.create`."""
        raise AssertionError


class NoWebhook:
    """No webhook is owed, so none is sent."""

    limiter = ""

    async def send(self, _session: Session) -> Delivery:
        """See `WebhookSender.send`."""
        raise AssertionError
