"""Log lines with the session, the step and the trace they belong to."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

_FIELDS = ("session_id", "step", "trace_id", "span_id", "error_type")


class Work(Protocol):
    """What the running task works on."""

    @property
    def session_id(self) -> UUID:
        """The session."""
        ...

    @property
    def step(self) -> str | None:
        """The step; `None`: it is being opened."""
        ...


work: ContextVar[Work | None] = ContextVar("guestledger_work", default=None)
"""Follows a task and the tasks that it starts."""


class LogContext(logging.Filter):
    """Adds `session_id`, `step`, `trace_id`, `span_id` and `error_type` to log records; `None` where there is none.

    Add it to a handler of your own to have the same fields as `guestledger --log-format json`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; keep every record. A field given by `extra` stays."""
        current = work.get()
        trace_id, span_id = _trace()
        found = {
            "session_id": None if current is None else str(current.session_id),
            "step": None if current is None else current.step,
            "trace_id": trace_id,
            "span_id": span_id,
            "error_type": _error_type(record),
        }
        for name, value in found.items():
            if getattr(record, name, None) is None:
                setattr(record, name, value)
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line. It needs `LogContext` on the handler for the fields of the context."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON: `time` (UTC, ms), `level`, `logger`, `message`, then what is known."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1_000:03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(value) for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)  # ASCII: nothing in it can change what a terminal shows


def _error_type(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[0] is not None:
        return record.exc_info[0].__name__
    given = record.args if isinstance(record.args, tuple) else ()
    return next((type(value).__name__ for value in given if isinstance(value, BaseException)), None)


def _trace() -> tuple[str | None, str | None]:
    # Only a host that has imported OpenTelemetry can have a span.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None, None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None, None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
