"""Requests for admission, and the rate limiter's answers."""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from guestledger.engine.limits.retry import WaitBasis


class DenialReason(StrEnum):
    """Why the limiter denies a request."""

    CLOSED = "closed"
    """The server asked for a pause."""
    RATE = "rate"
    """The admitted rate is used up."""
    CIRCUIT_OPEN = "circuit_open"
    """Too many requests in a row failed."""
    RETRY_BUDGET = "retry_budget"
    CONCURRENCY = "concurrency"
    """Too many calls in flight, over all processes."""


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """A request may not be sent before `until` (UTC, the database's clock)."""

    by: DenialReason
    until: datetime
    closed_by: WaitBasis | None = None
    """For `CLOSED`."""
    rate: float | None = None
    """Per second: for `RATE` the admitted rate, for `RETRY_BUDGET` the refill."""
    failures: int | None = None
    """For `CIRCUIT_OPEN`: failures in a row."""
    probing: bool = False
    """For `CIRCUIT_OPEN`: a probe is in flight."""
    in_flight: int | None = None
    """For `CONCURRENCY`."""


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for admission by `limiter`."""

    limiter: str
    retry: bool
    """Whether it uses the retry budget."""
    reserved: bool
    """Whether its claim reserved a place."""
    early: bool = False
    """Whether it may be admitted before its turn: it is sent once that has come."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request may be sent."""

    at: datetime
    """When it was admitted, by the database's clock."""
    probes: bool
    """Whether it probes an open circuit."""
    wait: timedelta = timedelta(0)
    """How long it waits for its turn, if it was admitted early."""
