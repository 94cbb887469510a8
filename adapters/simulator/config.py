"""Which faults the simulator injects, and for which keys."""

from hashlib import blake2b

import msgspec


class SimulatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares are of idempotency keys, 0 to 1, selected by a hash of `seed`, fault and key; `_s` are seconds.

    A selected key meets its fault `fault_times` times (throttles: `throttle_times`) and then succeeds.
    """

    seed: int = 0
    fault_times: int = 1

    throttle_share: float = 0.0
    throttle_times: int = 1
    retry_after: str = "seconds"
    """`seconds`, `date`, `absent`, `negative`, `huge`, `nonsense`, or the text itself."""
    retry_after_s: int = 2

    quota: int = 0
    """Creations a second. 0: no limit."""
    rate_limit_headers: bool = False

    drop_before_share: float = 0.0
    """Drop the connection before processing."""
    server_error_share: float = 0.0
    error_after_processing: bool = False
    error_retry_after: str | None = None
    """`Retry-After` of 500 and 503."""
    hang_share: float = 0.0
    """Answer `hang_s` after processing."""
    hang_s: float = 60.0
    drop_share: float = 0.0
    """Drop the connection after processing."""
    slow_ms: int = 0
    """For look-ups and creations."""

    token_lifetime_s: float = 3_600.0
    token_throttle_times: int = 0
    """Throttle the first token requests."""
    token_errors: int = 0
    """Answer the next ones with 503."""
    refuse_tokens: bool = False
    missing_scopes: frozenset[str] = frozenset()

    unknown_channels: frozenset[str] = frozenset()
    """Ids with the prefix `ch_unknown`, or without `ch_`, are always unknown."""
    inactive_channels: frozenset[str] = frozenset()
    channels_without_web_chat: frozenset[str] = frozenset()
    channel_throttle_times: int = 0
    """Throttle the first look-ups of each channel."""
    channel_errors: int = 0
    """Answer the next ones with 500."""

    honour_idempotency_key: bool = True
    session_lifetime_s: float = 3_600.0
    clock_offset_s: float = 0.0
    """How far its clock is ahead of this machine's. Negative: behind."""

    webhook_status: int = 200
    webhook_retry_after: str | None = None
    webhook_hang_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
            if name.endswith(("_s", "_ms", "_times", "_errors", "quota")) and value < 0 and name != "clock_offset_s":
                raise ValueError(f"{name} must not be negative")

    def meets(self, fault: str, share: float, key: str) -> bool:
        """Whether `fault` selects `key`."""
        if share <= 0:
            return False
        digest = blake2b(f"{self.seed}:{fault}:{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < share * 2**64
