"""What can be made to go wrong, and for whom."""

from hashlib import blake2b

import msgspec


class SimulatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the simulator behaves. All shares are of idempotency keys, 0 to 1; all `_s` are seconds.

    Which keys a fault meets is a hash of key, fault and `seed`: so the same keys are met whatever the interleaving.
    Each fault meets a key `fault_times` times (throttles: `throttle_times`) and then lets it pass.
    Raises `ValueError` naming the knob that is out of range.
    """

    seed: int = 0
    fault_times: int = 1

    throttle_share: float = 0.0
    throttle_times: int = 1
    retry_after: str = "seconds"
    """The form of `Retry-After`: `seconds`, `date`, `absent`, `negative`, `huge`, `nonsense`; other text is sent as it is."""
    retry_after_s: int = 2

    quota: int = 0
    """So many creations are let through in any second, whoever asks; more are throttled. 0: as many as come."""
    rate_limit_headers: bool = False
    """Whether answers tell how much of the quota is left, in `RateLimit` and `RateLimit-Policy`."""

    drop_before_share: float = 0.0
    """The connection is dropped before the request is processed."""
    server_error_share: float = 0.0
    error_after_processing: bool = False
    """Whether the session was made before the 500."""
    error_retry_after: str | None = None
    """What goes in `Retry-After` with that 500, and with the 503 of `token_errors`, as it is."""
    hang_share: float = 0.0
    """The request is processed, and its answer comes `hang_s` late."""
    hang_s: float = 60.0
    drop_share: float = 0.0
    """The connection is dropped after the request was processed."""
    slow_ms: int = 0
    """How long every look-up and creation takes."""

    token_lifetime_s: float = 3_600.0
    token_throttle_times: int = 0
    """So many token requests are throttled first, counted from the start."""
    token_errors: int = 0
    """So many token requests, after the throttled ones, are answered 503."""
    refuse_tokens: bool = False
    """Every token is answered with 401, however fresh."""
    missing_scopes: frozenset[str] = frozenset()

    unknown_channels: frozenset[str] = frozenset()
    """Not there, like every id that begins with `ch_unknown` or does not begin with `ch_`."""
    inactive_channels: frozenset[str] = frozenset()
    channels_without_web_chat: frozenset[str] = frozenset()
    channel_throttle_times: int = 0
    """So many look-ups of each channel are throttled first, counted from the start."""
    channel_errors: int = 0
    """So many look-ups of each channel, after the throttled ones, are answered 500."""

    honour_idempotency_key: bool = True
    session_lifetime_s: float = 3_600.0

    webhook_status: int = 200
    webhook_retry_after: str | None = None
    """What the webhook receiver answers in `Retry-After`, as it is."""
    webhook_hang_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
            if name.endswith(("_s", "_ms", "_times", "_errors", "quota")) and value < 0:
                raise ValueError(f"{name} must not be negative")

    def meets(self, fault: str, share: float, key: str) -> bool:
        """Whether `fault` is in store for `key`."""
        if share <= 0:
            return False
        digest = blake2b(f"{self.seed}:{fault}:{key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < share * 2**64
