"""The spans that a host with an OpenTelemetry SDK would export."""

from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from guestledger.adapters.telemetry import instruments


class Host:
    """A host that traces."""

    def __init__(self, sampler: Sampler) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("host")

    def spans(self, name: str | None = None) -> Sequence[ReadableSpan]:
        """The ended spans, all or those of one name."""
        return [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]

    def span(self, name: str) -> ReadableSpan:
        """The one span of this name."""
        [span] = self.spans(name)
        return span


def traced(monkeypatch: pytest.MonkeyPatch, sampler: Sampler = ALWAYS_ON) -> Host:
    """Let this process be such a host until the test ends. The API itself takes a provider only once."""
    host = Host(sampler)
    monkeypatch.setattr(instruments, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: host.provider)
    return host


def facts(span: ReadableSpan) -> dict[str, object]:
    """Its attributes."""
    return dict(span.attributes or {})


def trace_of(span: ReadableSpan) -> int:
    """Its trace id."""
    assert span.context is not None
    return span.context.trace_id


def linked(span: ReadableSpan) -> list[int]:
    """The trace ids to which it has links."""
    return [link.context.trace_id for link in span.links]


def parent_of(span: ReadableSpan) -> int | None:
    """The id of its parent."""
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    """Its own id."""
    assert span.context is not None
    return span.context.span_id
