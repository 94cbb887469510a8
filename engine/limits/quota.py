"""A used-up quota, as reported by the server."""

import msgspec

from guestledger.engine.limits.retry import WaitBasis


class ExhaustedQuota(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is left of a quota for `ms`. `per_second` is its average rate, if the server states it."""

    ms: int
    per_second: float | None
    basis: WaitBasis = WaitBasis.QUOTA
