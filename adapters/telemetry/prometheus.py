"""Metrics in the text format of Prometheus. Needs the extra `server`."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from guestledger.adapters.telemetry.gauges import gauge_families
from guestledger.adapters.telemetry.instruments import Instruments
from guestledger.adapters.telemetry.measurements import Histogram, Measurements
from guestledger.adapters.telemetry.outcomes import ATTEMPTS, DELIVERIES, LOOKUPS
from guestledger.engine.domain.errors import GuestledgerError
from guestledger.engine.domain.events import EVENT_TYPES
from guestledger.engine.ledger import Ledger
from guestledger.engine.operations.gauges import Gauges

_LIMIT_SECONDS = 2.0
"""How long a scrape waits for the database."""
_FRESH_SECONDS = 2.0
"""Several scrapes within this time share one look at the database."""

_looks: WeakKeyDictionary[Ledger, "_Look"] = WeakKeyDictionary()


async def metrics_text(ledger: Ledger) -> tuple[bytes, str]:
    """Return the metrics of this process and of the whole ledger, and their content type.

    Never raises, and takes at most a few seconds: without the database, `guestledger_up` is 0 and only what this process has
    counted is there.
    """
    look = _looks.setdefault(ledger, _Look())
    instruments = ledger.telemetry
    assert isinstance(instruments, Instruments), "the ledger was opened by connect"
    registry = CollectorRegistry()
    registry.register(_Families(instruments.measured, await look.gauges(ledger)))
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Look:
    """The last look at the database of one ledger."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._found: Gauges | None = None
        self._found_at = float("-inf")

    async def gauges(self, ledger: Ledger) -> Gauges | None:
        """What was found, at most `_FRESH_SECONDS` ago; `None`: the database cannot be used."""
        async with self._one_at_a_time:
            if time.monotonic() - self._found_at >= _FRESH_SECONDS:
                self._found = await _read(ledger)
                self._found_at = time.monotonic()
        return self._found


async def _read(ledger: Ledger) -> Gauges | None:
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            return await ledger.checks.gauges()
    except (GuestledgerError, TimeoutError):
        return None


class _Families(Collector):
    """What was counted and found, as the metrics of one scrape."""

    def __init__(self, measured: Measurements, found: Gauges | None) -> None:
        self._measured = measured
        self._found = found

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from _counted(self._measured)
        yield from gauge_families(self._found)


def _counted(measured: Measurements) -> Iterator[Metric]:
    yield _counter("guestledger_lookups", "Answers to channel look-ups.", "outcome", measured.lookups, LOOKUPS)
    yield _counter("guestledger_attempts", "Outcomes of creation attempts.", "outcome", measured.attempts, ATTEMPTS)
    yield _counter("guestledger_webhooks", "Outcomes of webhook calls.", "outcome", measured.webhooks, DELIVERIES)
    yield _counter("guestledger_events", "Events recorded by this process.", "event", measured.events, EVENT_TYPES)
    yield _histograms("guestledger_open_seconds", "Calls of open_session.", "status", measured.openings)
    yield _histograms("guestledger_schedule_to_start_seconds", "From due to claimed.", "step", measured.waits)
    yield _histograms("guestledger_request_seconds", "Outbound requests.", "purpose", measured.requests)
    yield _histogram("guestledger_append_seconds", "Appends, from the call to the answer.", measured.appends)
    yield _histogram("guestledger_append_batch_size", "Appends per commit.", measured.batches)


def _counter(name: str, text: str, label: str, counts: Counter[str], known: Iterable[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value in sorted({*known, *counts}):  # a rate needs a 0 before the first 1
        family.add_metric([value], counts[value])
    return family


def _histograms(name: str, text: str, label: str, found: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, histogram in sorted(found.items()):
        family.add_metric([value], histogram.buckets(), histogram.total)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=histogram.buckets(), sum_value=histogram.total)
