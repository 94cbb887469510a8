"""A quota that is used up, as the server tells of it before it throttles."""

import msgspec


class ExhaustedQuota(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing is left of a quota for `ms`; `per_second` is what it allows on average, if the server says so."""

    ms: int
    per_second: float | None
    why: str
