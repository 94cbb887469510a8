"""Spans by the OpenTelemetry API. Without an SDK in the host nothing is made.

A session outlives any trace: its webhook may be sent days later, by another process. So each step that a worker runs is a trace of
its own, with a link to the session's context, as the messaging conventions want it of work that was queued. That context is
computed from the session's id, so no process has to store or read it: the trace id is the session's id.
"""

import time
from collections.abc import Mapping, Sequence
from contextvars import Token
from hashlib import sha256
from uuid import UUID

from opentelemetry import context as contexts, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

MAX_LINKS = 128
"""The most links of one span, as by default in the SDKs."""

Attributes = Mapping[str, AttributeValue]
_SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
_NONE = contexts.Context()


def session_context(session_id: UUID) -> SpanContext:
    """The context to which every span of a session has a link."""
    span_id = int.from_bytes(sha256(session_id.bytes).digest()[:8]) or 1
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(trace_id=session_id.int, span_id=span_id, is_remote=True, trace_flags=flags)


class OpenSpan:
    """A span that is the current one until it ends."""

    __slots__ = ("_token", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self._token: Token[contexts.Context] = contexts.attach(trace.set_span_in_context(span))

    def fail(self, error_type: str) -> None:
        """Mark it as failed. The error's text is left out: it may quote a request."""
        self.span.set_attribute("error.type", error_type)
        self.span.set_status(Status(StatusCode.ERROR))

    def end(self, error: type[BaseException] | None) -> None:
        """End it, as failed if there is an `error`."""
        contexts.detach(self._token)
        if error is not None:
            self.fail(error.__qualname__)
        self.span.end()


class Spans:
    """Makes spans once the host has set a tracer provider. `version` is the release's."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._tracer: trace.Tracer | None = None

    def is_active(self) -> bool:
        """Whether the host has set a tracer provider."""
        if self._tracer is None:
            provider = trace.get_tracer_provider()
            if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
                return False
            self._tracer = provider.get_tracer("guestledger", self._version, schema_url=_SCHEMA)
        return True

    def start(
        self,
        name: str,
        attributes: Attributes,
        *,
        kind: str = "internal",
        of: Sequence[UUID] = (),
    ) -> OpenSpan:
        """Start a span as a child of the current one; with `of`, in a trace of its own that is linked to these sessions.

        Call it only while `is_active`.
        """
        assert self._tracer is not None
        links = [Link(session_context(session_id)) for session_id in list(dict.fromkeys(of))[:MAX_LINKS]]
        context = _NONE if of else None
        span = self._tracer.start_span(name, context, SpanKind[kind.upper()], attributes, links)
        return OpenSpan(span)

    def mark_session(self, session_id: UUID, opening: OpenSpan) -> None:
        """Make the one span of the trace that has the session's id. It leads to the trace in which the session was opened.

        It exists if that one is sampled: the host's sampler decided.
        """
        assert self._tracer is not None
        if not opening.span.get_span_context().trace_flags.sampled:
            return
        parent = trace.set_span_in_context(trace.NonRecordingSpan(session_context(session_id)), _NONE)
        link = Link(opening.span.get_span_context())
        kind, now = SpanKind.PRODUCER, time.time_ns()
        attributes = {"guestledger.session.id": str(session_id)}
        span = self._tracer.start_span("session", parent, kind, attributes, [link], start_time=now)
        span.end(end_time=now)
