"""The shared rate limiter."""

from collections.abc import Collection
from typing import Protocol
from uuid import UUID

from guestledger.engine.limits.admission import AdmissionRequest, Admitted, Denied
from guestledger.engine.limits.feedback import Feedback
from guestledger.engine.limits.limiter import LimiterState


class RateLimiter(Protocol):
    """What all processes know together about the APIs they call: one limiter for each host and quota."""

    async def admit(self, request: AdmissionRequest, asking: Collection[UUID] | None = None) -> Admitted | Denied:
        """Admit a request that no append announces, or say what denies it.

        `asking`: the sessions that are leased for a call and not admitted yet, this one included. `None`: the request
        does not count against the limit on calls, or was counted with its reservation.
        """
        ...

    async def observe(self, feedback: Feedback) -> None:
        """Take in what an answer shows, if no append records it."""
        ...

    async def states(self) -> dict[str, LimiterState]:
        """Every limiter that knows something against its API, by name."""
        ...

    async def reset(self, name: str) -> bool:
        """Forget what this limiter knows; False if it knows nothing."""
        ...
