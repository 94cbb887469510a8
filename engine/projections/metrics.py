"""The `session_metrics` projection: events counted by channel and minute."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import NamedTuple

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.log.recorded import RecordedEvent, month_of

NAME = "session_metrics"

# `withdrawn_pending`: those of `withdrawn` that had no outcome yet.
COUNTS = (
    "accepted",
    "refused",
    "created",
    "rejected",
    "abandoned",
    "withdrawn",
    "withdrawn_pending",
    "expired",
    "attempts",
    "throttled",
    "failed",
    "duplicates",
    "webhooks_synced",
    "webhooks_failed",
    "webhooks_abandoned",
)


class Cell(NamedTuple):
    """The row that a count belongs to."""

    channel_id: str
    minute: datetime
    month: date
    """The month in which the session began: partitions can be rebuilt separately."""


class Increments(NamedTuple):
    """What a batch adds: to the counts of each cell, and to the number of its sessions per latency in ms."""

    counts: dict[Cell, Counter[str]]
    latencies: Counter[tuple[Cell, int]]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long guests waited from acceptance to session, in ms. Exact, by nearest rank."""

    average: float
    p50: int
    p95: int
    p99: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """The contract's metrics and the counts behind them. A session is tracked once its outcome is known.

    Only a created session is a success.
    """

    tracked: int
    success_rate: float
    latency: Latency | None
    """`None`: no session was created."""
    pending: int | None
    """Accepted sessions without an outcome. `None` for a span of time: other sessions begin in it than end."""
    in_doubt: int | None
    """Attempts still in doubt. `None` for a span of time."""
    possible_duplicates: int | None
    """Those of sessions that another attempt opened. `None` for a span of time."""
    counts: Mapping[str, int]


class DailyMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of one channel and day (UTC)."""

    day: date
    channel_id: str
    metrics: Metrics


class HourlyOutcomes(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one hour (UTC), over all channels."""

    hour: datetime
    counts: Mapping[str, int]


class Doubts(NamedTuple):
    """How many attempts are still in doubt."""

    attempts: int
    opened: int
    """Of sessions that another attempt opened."""


class MetricsFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to count. `since` is inclusive, `until` exclusive, both truncated to the minute."""

    channel_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def project(events: Iterable[RecordedEvent]) -> Increments:
    """What `events` add to the counts."""
    counts: defaultdict[Cell, Counter[str]] = defaultdict(Counter)
    latencies: Counter[tuple[Cell, int]] = Counter()
    for recorded in events:
        event = recorded.event
        if not isinstance(event, e.SessionEvent):
            continue
        cell = Cell(
            event.channel_id, recorded.recorded_at.replace(second=0, microsecond=0), month_of(recorded.stream_id)
        )
        for name in _counted(event):
            counts[cell][name] += 1
        if isinstance(event, e.SessionCreated):
            latencies[cell, event.latency_ms] += 1
    return Increments(counts, latencies)


def summarise(counts: Mapping[str, int], latencies: Iterable[tuple[int, int]], doubts: Doubts | None) -> Metrics:
    """The metrics of these totals. `latencies`: pairs of ms and sessions, by ascending ms. `doubts`: `None` for a span."""
    created, accepted = counts["created"], counts["accepted"]
    settled = created + counts["rejected"] + counts["abandoned"] + counts["withdrawn_pending"]
    tracked = settled + counts["refused"]
    return Metrics(
        tracked=tracked,
        success_rate=created / tracked if tracked else 0.0,
        latency=_latency(list(latencies)),
        pending=None if doubts is None else accepted - settled,
        in_doubt=None if doubts is None else doubts.attempts,
        possible_duplicates=None if doubts is None else doubts.opened,
        counts=dict(counts),
    )


def _latency(ranked: list[tuple[int, int]]) -> Latency | None:
    sessions = sum(number for _, number in ranked)
    if not sessions:
        return None

    def percentile(share: int) -> int:
        rank, seen = -(-share * sessions // 100), 0
        return next(ms for ms, number in ranked if (seen := seen + number) >= rank)

    return Latency(
        average=sum(ms * number for ms, number in ranked) / sessions,
        p50=percentile(50),
        p95=percentile(95),
        p99=percentile(99),
    )


_COUNTED: Mapping[type[e.Event], tuple[str, ...]] = {
    e.ConsentRecorded: ("accepted",),
    e.ConsentRefused: ("refused",),
    e.ChannelRejected: ("rejected",),
    e.CreationAttempted: ("attempts",),
    e.CreationThrottled: ("throttled",),
    e.CreationFailed: ("failed",),
    e.SessionCreated: ("created",),
    e.SessionAdopted: ("created",),
    e.DuplicateCreated: ("duplicates",),
    e.WebhookSynced: ("webhooks_synced",),
    e.WebhookFailed: ("webhooks_failed",),
    e.WebhookAbandoned: ("webhooks_abandoned",),
    e.TokenExpired: ("expired",),
    e.SessionAbandoned: ("abandoned",),
    e.AbandonmentDecided: ("abandoned",),
    e.ConsentWithdrawn: ("withdrawn",),
}


def _counted(event: e.Event) -> tuple[str, ...]:
    match event:
        case e.ChannelLookupFailed(retry_at=None):
            return ("rejected",)
        case e.CreationFailed(retry_at=None):
            return ("failed", "rejected")
        case e.ConsentWithdrawn(ended=ended) if not ended.is_settled:
            return ("withdrawn", "withdrawn_pending")
        case _:
            return _COUNTED.get(type(event), ())
