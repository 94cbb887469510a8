"""The analytics webhook."""

from typing import Protocol

from guestledger.engine.domain.outcomes import Delivery
from guestledger.engine.domain.session import Session


class WebhookSender(Protocol):
    """Sends notices of sessions to one receiver."""

    @property
    def limiter(self) -> str:
        """The limiter that its calls pass: the receiver's host."""
        ...

    async def send(self, session: Session) -> Delivery:
        """Send the notice that `session` owes (`Session.notice`). A failed call is an outcome."""
        ...
