"""The analytics webhook."""

from typing import Protocol

from guestledger.engine.domain.outcomes import Delivery
from guestledger.engine.domain.session import Session


class WebhookSender(Protocol):
    """Sends the notice that a session has started."""

    @property
    def limiter(self) -> str:
        """The limiter that its calls pass."""
        ...

    async def send(self, session: Session) -> Delivery:
        """Send the notice. Network errors are in the result."""
        ...
