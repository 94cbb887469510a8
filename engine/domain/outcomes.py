"""What came back from outside, in the domain's words. The adapters translate the wire into these."""

from datetime import datetime
from enum import StrEnum

import msgspec

from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import RetryAfter


class Throttled(msgspec.Struct, frozen=True, kw_only=True):
    """429: not now."""

    status: int
    retry_after: RetryAfter
    drained: ExhaustedQuota | None = None
    """A quota that is used up, here and below, if the server says so."""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Not a success, and not a throttle. `message` is for a person; it carries no secret or personal datum."""

    kind: FailureKind
    status: int | None
    message: str
    retry_after: RetryAfter | None = None
    """When it is to be tried again, if the server said so (RFC 9110, section 10.2.3)."""
    drained: ExhaustedQuota | None = None


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as CXone described it. `cached` tells an answer that was remembered from one just given."""

    id: str
    status: str
    protocols: tuple[str, ...]
    looked_up_at: datetime
    cached: bool = False
    drained: ExhaustedQuota | None = None


class Created(Guarded, frozen=True, kw_only=True):
    """CXone made a session."""

    session_id: str
    guest_token: Personal
    expires_at: datetime
    status: str
    latency_ms: int
    drained: ExhaustedQuota | None = None


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """The webhook answered, or did not (`status` is `None`): only 2xx counts as taken."""

    status: int | None
    message: str
    latency_ms: int
    retry_after: RetryAfter | None = None
    """When the receiver wants to be called again, if it said so (429, 503)."""

    @property
    def taken(self) -> bool:
        """Whether the receiver has the notice."""
        return self.status is not None and 200 <= self.status < 300


class Verdict(StrEnum):
    """What a person can say of a parked session without having found one at CXone."""

    RETRY = "retry"
    """Attempt it again; should CXone have made one before, a second one arises."""
    ABANDON = "abandon"


class Adoption(Guarded, frozen=True, kw_only=True):
    """The session that a person found at CXone for a parked one. `expires_at` is what CXone says (with an offset).

    Without `guest_token` the session is accounted for and expires, but no guest can be let in with it from here.
    """

    session_id: str
    expires_at: datetime
    guest_token: Personal | None = None


Resolution = Verdict | Adoption
LookupOutcome = Channel | Throttled | Failed
CreationOutcome = Created | Throttled | Failed
