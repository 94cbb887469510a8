"""`ledger.limits`."""

import logging

from guestledger.engine.limits.state import LimiterState
from guestledger.engine.ports.rate_limiter import RateLimiter

logger = logging.getLogger("guestledger")


class Limits:
    """The rate limiters that all processes share."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter

    async def states(self) -> dict[str, LimiterState]:
        """Return the state of each limiter by name (host and quota scope). An unrestricted limiter has none.

        Times are the database's; a time in the past no longer restricts anything.
        """
        return await self._limiter.states()

    async def reset(self, name: str, *, requested_by: str) -> bool:
        """Delete the limiter's state, also a pause that the server asked for; `False` if it has none.

        New and due sessions continue at once. Sessions already deferred or throttled keep their `retry_at`. A log
        warning names `requested_by`; no event does.
        """
        was_known = await self._limiter.reset(name)
        if was_known:
            logger.warning("limiter %r was reset by %r", name, requested_by)
        return was_known
