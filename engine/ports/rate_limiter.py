"""The shared rate limiter."""

from collections.abc import Collection
from typing import Protocol
from uuid import UUID

from guestledger.engine.limits.admission import AdmissionRequest, Admitted, Denied
from guestledger.engine.limits.feedback import Feedback
from guestledger.engine.limits.state import LimiterState


class RateLimiter(Protocol):
    """One limiter for each host and quota, shared by all processes."""

    async def admit(self, request: AdmissionRequest, asking: Collection[UUID] | None = None) -> Admitted | Denied:
        """Admit a request that no append announces.

        `asking`: the leased sessions that wait for admission, this one included. `None`: the request does not count
        against the limit on calls, or its reservation did.
        """
        ...

    async def observe(self, feedback: Feedback) -> None:
        """Process the feedback of an answer that no append records."""
        ...

    async def states(self) -> dict[str, LimiterState]:
        """Every limiter that restricts something, by name."""
        ...

    async def reset(self, name: str) -> bool:
        """Delete the limiter's state; False: it had none."""
        ...
