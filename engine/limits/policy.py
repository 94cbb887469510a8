"""What passes a limiter, what holds it back, what answers tell, and the numbers by which that goes: the words of `guestledger.engine.limits.limiter`."""

from datetime import datetime
from enum import StrEnum

import msgspec

from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS


class LimiterPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How carefully an API is treated. Rates are requests a second.

    Raises `ValueError` for a number by which nothing would ever pass, or no rate or time could be reckoned; the text names the
    field. A retry needs one whole one of the budget, so `retries_kept` is 1 or more.
    """

    first_rate: float = 10.0
    """With what an API is tried that has throttled for the first time; each answer adds 1, until the next 429."""
    boundless_rate: float = 5_000.0
    """A rate that has risen so far is no limit any more."""
    min_rate: float = 0.1
    min_closed_ms: int = 500
    """A 429 closes the limiter for so long, whatever less the server says: what it counts, it counts over some time."""
    cut_ms: int = 1_000
    """The rate is cut no more than once in so long: what was cut has to show first."""
    decrease: float = 0.8
    """With what share of the rate that was too much the limiter opens again."""
    increase: float = 0.2
    """By what it then rises each second, as a share of the rate that was too much."""
    rest_share: float = 0.95
    """Where the steep rise stops, as a share of the rate that was too much: what is counted together at the other end need
    not have been sent together."""
    rest_ms: int = 60_000
    """How long it rests there before it is tried whether more can be had: counted in answers."""
    proven_ms: int = 3_000
    eased: float = 0.985
    """When a 429 comes though the rate was borne for `proven_ms`, what that leaves of the rate that counts for too much."""
    doubled_s: float = 20.0
    """So many seconds after that rest the rate has doubled."""
    forgotten_ms: int = 900_000
    """So long without a 429, and the limit is given up too."""
    ahead_ms: int = 100
    """How far ahead a worker takes slots."""
    spare_slots: float = 0.15
    """So many more slots are given out than requests may pass: some are taken, and not made use of in time."""
    at_once: int = 2
    """So many requests may pass together: who comes late for its slot, with others, is sent back for another one."""
    together_ms: int = 40
    """Or those of so long, if they are more: attempts are recorded in batches, each at one moment."""

    failures_in_a_row: int = 10
    break_ms: int = 1_000
    """How long the first break is; each failed probe doubles it, up to `max_break_ms`."""
    max_break_ms: int = 30_000
    probe_ms: int = 30_000
    """How long a probe is waited for, before another may be made."""

    retries_kept: float = 100.0
    retries_per_request: float = 0.2
    retries_per_second: float = 5.0

    calls_per_process: int = 256
    """The most requests to CXone that one process has in flight."""
    calls: int | None = None
    """The most sessions that are worked on towards creation, each with at most one request to CXone in flight, look-ups and
    creations alike, over all processes; `None`: no limit."""

    def __post_init__(self) -> None:
        for least, names in _AT_LEAST.items():
            for name in names:
                number = getattr(self, name)
                if number is not None and not (least <= number <= _MOST):
                    raise ValueError(f"LimiterPolicy.{name} must be {least:g} or more, and at most {_MOST:g}")


# A rate of less is as good as none, and the time until the next request no number. As shares of a rate, likewise.
_MIN_RATE = 0.001
# Ten years in milliseconds: beyond that, times overflow.
_MOST = MAX_RETRY_AFTER_MS
_AT_LEAST: dict[float, tuple[str, ...]] = {
    _MIN_RATE: (
        "first_rate",
        "boundless_rate",
        "min_rate",
        "decrease",
        "increase",
        "rest_share",
        "eased",
        "doubled_s",
        "retries_per_second",
    ),
    0: (
        "min_closed_ms",
        "cut_ms",
        "rest_ms",
        "proven_ms",
        "forgotten_ms",
        "ahead_ms",
        "spare_slots",
        "at_once",
        "together_ms",
        "break_ms",
        "max_break_ms",
        "probe_ms",
        "retries_per_request",
    ),
    1: ("failures_in_a_row", "retries_kept", "calls_per_process", "calls"),
}


class DenialReason(StrEnum):
    """What holds a request back."""

    GATE = "limiter"
    PACE = "pace"
    BREAKER = "breaker"
    BUDGET = "budget"
    CALLS = "calls"


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """A request may not be made now, but perhaps at `until`."""

    by: DenialReason
    until: datetime
    reason: str


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that wants to be made through `limiter`."""

    limiter: str
    retry: bool
    """Whether one before it failed, otherwise than by a 429."""
    slotted: bool
    """Whether a slot was taken for it when its session was claimed."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request was let through."""

    at: datetime
    """When, by the database's clock."""
    probes: bool
    """Whether it is the one that is waited for where the circuit is broken."""


class Observation(StrEnum):
    """What an answer, or the lack of one, says of the API."""

    SUCCESS = "well"
    THROTTLED = "throttled"
    FAILED = "failed"
    NOT_SENT = "not_sent"
    """Nothing: the request was let through, and then not made."""


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What a request through `limiter` has brought to light about it."""

    limiter: str
    answered: Observation
    began_at: datetime
    """When the request was about to be made, by the database's clock."""
    closed_ms: int | None = None
    """For how long nothing is to be asked: `Retry-After`, or the reset of a drained quota."""
    why: str = ""
    quota: float | None = None
    """What the server says that it bears, if it does."""
