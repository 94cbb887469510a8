"""What a look at the database found, as metrics of Prometheus."""

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.operations.gauges import Gauges

_Samples = Iterable[tuple[str, float]]


def gauge_families(found: Gauges | None) -> Iterator[Metric]:
    """Yield the gauges; without a look, `guestledger_up` alone, which is 0."""
    yield GaugeMetricFamily("guestledger_up", "Whether the database could be read.", value=found is not None)
    if found is None:
        return
    yield from _work(found)
    yield from _limiters(found)
    yield from _readers(found)


def _work(found: Gauges) -> Iterator[Metric]:
    due = GaugeMetricFamily("guestledger_due_steps", "Steps by state, up to 100,000 each.", labels=["step", "state"])
    for count in found.steps:
        for state, number in (("due", count.due), ("waiting", count.waiting), ("leased", count.leased)):
            due.add_metric([count.step, state], number)
    yield due
    ages = [(count.step.value, count.oldest_seconds) for count in found.steps]
    yield _by("guestledger_oldest_due_seconds", "How long the oldest free step has been due.", "step", ages)
    yield GaugeMetricFamily(
        "guestledger_backlog_sessions", "Accepted sessions without an outcome.", value=found.backlog
    )
    yield GaugeMetricFamily(
        "guestledger_backlog_seconds", "How long the oldest of them has waited.", value=found.backlog_seconds
    )
    yield GaugeMetricFamily(
        "guestledger_owed_webhooks", "Notices that are still to be delivered.", value=found.owed_webhooks
    )
    doubtful = [(status.value, number) for status, number in found.doubtful.items()]
    yield _by("guestledger_doubtful_sessions", "Sessions in doubt, and parked ones.", "status", doubtful)


def _limiters(found: Gauges) -> Iterator[Metric]:
    states, now = found.limiters, found.now
    denials = {name: state.outage(now) for name, state in states.items()}
    closed = [
        (name, float(denied is not None and denied.by is DenialReason.CLOSED)) for name, denied in denials.items()
    ]
    broken = [(name, float(state.broken_at is not None)) for name, state in states.items()]
    until = [(name, max(0.0, (denied.until - now).total_seconds())) for name, denied in denials.items() if denied]
    rates = [(name, rate) for name, state in states.items() if (rate := state.rate(now)) is not None]
    failures = [(name, state.failures) for name, state in states.items()]
    yield _by("guestledger_limiter_closed", "Whether an API asked for a pause.", "limiter", closed)
    yield _by("guestledger_limiter_circuit_open", "Whether only probes are sent.", "limiter", broken)
    yield _by("guestledger_limiter_opens_in_seconds", "When a denied request may pass.", "limiter", until)
    yield _by("guestledger_limiter_rate", "Requests per second; none: unlimited.", "limiter", rates)
    yield _by("guestledger_limiter_failures", "Failed requests in a row.", "limiter", failures)


def _readers(found: Gauges) -> Iterator[Metric]:
    events = [(status.name, status.lag_events) for status in found.projections]
    seconds = [(status.name, status.lag_seconds) for status in found.projections]
    stopped = [(status.name, float(status.error is not None)) for status in found.projections]
    yield _by("guestledger_projection_lag_events", "Events that it lacks.", "projection", events)
    yield _by("guestledger_projection_lag_seconds", "Age of the oldest of them.", "projection", seconds)
    yield _by("guestledger_projection_stopped", "Whether it met a poison event.", "projection", stopped)
    lags = [(row.name, row.lag) for row in found.consumers]
    running = [(row.name, float(row.running)) for row in found.consumers]
    yield _by("guestledger_consumer_lag_events", "Events behind the log.", "consumer", lags)
    yield _by("guestledger_consumer_running", "Whether a process holds it.", "consumer", running)


def _by(name: str, text: str, label: str, samples: _Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in samples:
        family.add_metric([value], number)
    return family
