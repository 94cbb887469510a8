"""Call the webhook with the notice that a session has started."""

from contextlib import suppress
from datetime import datetime

from msgspec.structs import replace

from guestledger.engine.domain.commands import RecordDelivery
from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.domain.outcomes import feedback_of_delivery
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import Denied
from guestledger.engine.limits.feedback import not_sent
from guestledger.engine.worker.leases import LeaseLost
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult, require_revealed


class Step:
    """A process without a webhook leaves owed notices to the others."""

    lane = Lane.WEBHOOK

    def __init__(self, services: Services) -> None:
        self._webhook = services.webhook
        self._limiter = services.limiter
        self._clock = services.clock
        self._policy = services.policy
        self._outages = services.outages
        self.enabled = services.policy.webhook_enabled

    @property
    def limiter(self) -> str:
        """The receiver's host."""
        return self._webhook.limiter

    async def run(self, session: Session, context: StepContext) -> StepResult:
        """`WebhookSynced`, `WebhookFailed` or `WebhookAbandoned`; nothing if the limiter denies the call."""
        require_revealed(session)
        began_at = await self._admitted(context)
        if began_at is None:
            return StepResult(stop=True)
        delivery = await self._webhook.send(session)
        if not delivery.accepted:
            self._outages.webhook_failed(self.limiter, session.webhook_failures + 1)
        record = RecordDelivery(outcome=delivery, now=context.now(), jitter=self._clock.jitter())
        max_wait_ms = self._policy.webhook.max_wait_ms
        return StepResult(
            commands=(record,), feedback=feedback_of_delivery(self.limiter, delivery, began_at, max_wait_ms)
        )

    async def _admitted(self, context: StepContext) -> datetime | None:
        """When the call may begin, by the database's clock; `None`: the limiter denies it."""
        if not context.must_ask:
            context.check_lease()
            return context.started_at
        # Its retries have a schedule of their own, and no part in the retry budget.
        admitted = await self._limiter.admit(replace(context.admission(self.limiter), retry=False))
        if isinstance(admitted, Denied):
            return None
        try:
            context.check_lease()
        except LeaseLost:
            with suppress(ServiceError):
                await self._limiter.observe(not_sent(self.limiter, admitted.at))
            raise
        return admitted.at
