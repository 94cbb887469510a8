"""Asking the rate limiter: what a request says of itself, and the answer it gets."""

from datetime import datetime
from enum import StrEnum

import msgspec

from guestledger.engine.limits.retry import WaitBasis


class DenialReason(StrEnum):
    """Why the limiter denies a request."""

    CLOSED = "closed"
    """The server asked for a pause (429, `Retry-After`, exhausted quota)."""
    RATE = "rate"
    """The admitted rate is used up for now."""
    CIRCUIT_OPEN = "circuit_open"
    """Too many requests in a row failed."""
    RETRY_BUDGET = "retry_budget"
    """The budget for retries is spent."""
    CONCURRENCY = "concurrency"
    """Too many calls are in flight, over all processes."""


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """A request may not be sent now. It may ask again at `until` (UTC, the database's clock)."""

    by: DenialReason
    until: datetime
    closed_by: WaitBasis | None = None
    """For `CLOSED`: what the server said."""
    rate: float | None = None
    """Requests per second: for `RATE` the admitted rate, for `RETRY_BUDGET` the rate at which it refills."""
    failures: int | None = None
    """For `CIRCUIT_OPEN`: how many requests failed in a row."""
    probing: bool = False
    """For `CIRCUIT_OPEN`: whether a probe is in flight now."""
    in_flight: int | None = None
    """For `CONCURRENCY`."""


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that asks the limiter named `limiter` for admission."""

    limiter: str
    retry: bool
    """Whether an earlier request of the session failed other than by a throttle: retries have a budget."""
    reserved: bool
    """Whether the claim of its step reserved a place for it."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request may be sent."""

    at: datetime
    """When it was admitted, by the database's clock."""
    probes: bool
    """Whether it is the single probe of an open circuit."""
