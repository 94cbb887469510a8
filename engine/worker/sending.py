"""Sending an attempt that was announced: what is looked at right before, and what comes of one that is not sent."""

from msgspec.structs import replace

from guestledger.engine.domain.errors import RequestDenied, ServiceError
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.feedback import heard, not_sent
from guestledger.engine.domain.outcomes import CreationOutcome, Failed
from guestledger.engine.limits.policy import AdmissionRequest, Denied, Feedback
from guestledger.engine.ports import RateLimiter
from guestledger.engine.worker.leases import LeaseLost, Leases
from guestledger.engine.worker.session_work import Run


class Sending:
    """One attempt on its way. It was let through its limiter as it was recorded, and is again when it is sent again."""

    def __init__(self, run: Run, passage: AdmissionRequest, leases: Leases, limiters: RateLimiter) -> None:
        assert run.recorded_at is not None
        self._run = run
        # It has its place among the calls in flight, and its slot; a 401 is no failure that it would be a retry after.
        self._passage = replace(passage, retry=False, slotted=True)
        self._leases = leases
        self._gates = limiters
        self._began_at = run.recorded_at
        self._refused = False

    async def check(self) -> None:
        """To be called right before each time that it is sent. Again, that is after a 401, and its limiter may have closed.

        Raises `LeaseLost`, `RequestDenied`, `ServiceError`.
        """
        if self._refused:
            admitted = await self._gates.admit(self._passage)
            if isinstance(admitted, Denied):
                raise RequestDenied("not sent again", self._passage.limiter, admitted)
            self._began_at = admitted.at
        self._leases.check(self._run.lease, self._run.state.id)
        self._refused = True  # by whoever calls this once more

    def heard(self, outcome: CreationOutcome) -> Feedback:
        """What its outcome tells the limiter."""
        return heard(self._passage.limiter, outcome, self._began_at)

    def not_sent(self, error: LeaseLost | ServiceError) -> tuple[Failed, Feedback]:
        """What comes of it where it was not sent for this error, or not sent again: CXone has made nothing."""
        why = "the lease had lapsed before it could be sent" if isinstance(error, LeaseLost) else str(error)
        if self._refused:
            message = f"CXone refused its token (HTTP 401), and it was not sent again: {why}"
            refused = Failed(kind=FailureKind.UNAVAILABLE, status=401, message=message)
            return refused, self.heard(refused)
        kind = FailureKind.UNSENT if isinstance(error, LeaseLost) else FailureKind.UNAVAILABLE
        return Failed(kind=kind, status=None, message=why), not_sent(self._passage.limiter, self._began_at)
