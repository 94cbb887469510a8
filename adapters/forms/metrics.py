"""Metrics as JSON (contract, "Metrics and audit entry")."""

from datetime import date
from typing import Any

import msgspec

from guestledger.engine.projections.metrics import DailyMetrics, Metrics

OUTCOMES = ("created", "refused", "rejected", "abandoned", "withdrawn")
PERCENTILES = ("p50", "p95", "p99")


class LatencyForm(msgspec.Struct, frozen=True, kw_only=True):
    """How long guests waited from acceptance to session, in ms, by nearest rank."""

    p50: int
    p95: int
    p99: int


class MetricsForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The contract's metrics, then the counts behind them. Latencies are in ms."""

    success_rate: float
    average_latency: float | None
    total_tracked: int
    latency: LatencyForm | None
    pending: int | None
    in_doubt: int | None
    possible_duplicates: int | None
    outcomes: dict[str, int]
    counts: dict[str, int]


class DayForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The metrics of one channel and day (UTC). Latencies are in ms."""

    day: date
    channel_id: str
    success_rate: float
    total_tracked: int
    created: int
    refused: int
    rejected: int
    abandoned: int
    withdrawn: int
    average_latency: float | None
    p50: int | None
    p95: int | None
    p99: int | None


def metrics_form(metrics: Metrics) -> MetricsForm:
    """Return the metrics as JSON has them."""
    latency = metrics.latency
    return MetricsForm(
        success_rate=round(metrics.success_rate, 2),
        average_latency=_average(metrics),
        total_tracked=metrics.tracked,
        latency=None if latency is None else LatencyForm(p50=latency.p50, p95=latency.p95, p99=latency.p99),
        pending=metrics.pending,
        in_doubt=metrics.in_doubt,
        possible_duplicates=metrics.possible_duplicates,
        outcomes={name: metrics.counts[name] for name in OUTCOMES},
        counts=dict(metrics.counts),
    )


def day_form(row: DailyMetrics) -> DayForm:
    """Return the metrics of a day as JSON has them."""
    found = row.metrics
    percentiles: dict[str, Any] = {name: getattr(found.latency, name, None) for name in PERCENTILES}
    return DayForm(
        day=row.day,
        channel_id=row.channel_id,
        success_rate=round(found.success_rate, 2),
        total_tracked=found.tracked,
        average_latency=_average(found),
        **{name: found.counts[name] for name in OUTCOMES},
        **percentiles,
    )


def _average(metrics: Metrics) -> float | None:
    return None if metrics.latency is None else round(metrics.latency.average, 1)
