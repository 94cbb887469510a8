import json
import logging
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from guestledger.adapters.telemetry.log_context import JsonLines, LogContext, work
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from tests.tracing import Host, id_of, trace_of, traced

SESSION = UUID("01a22795-cc8e-71d5-9d6f-d3a95d2cde2f")


class Running(NamedTuple):
    session_id: UUID = SESSION
    step: str | None = None


def record(*args: object, exc_info: Any = None, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("guestledger", logging.WARNING, __file__, 1, "it is %s", args, exc_info)
    made.created = 1_716_214_919.25
    made.__dict__.update(extra)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    assert LogContext().filter(made)
    text = JsonLines().format(made)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_has_time_level_logger_and_message():
    expected = {"time": "2024-05-20T14:21:59.250Z", "level": "WARNING", "logger": "guestledger", "message": "it is so"}
    assert line(record("so")) == expected


def test_a_line_names_the_session_and_step_that_run():
    token = work.set(Running(step="create_session"))
    try:
        found = line(record("so"))
    finally:
        work.reset(token)

    assert (found["session_id"], found["step"]) == (str(SESSION), "create_session")


def test_a_session_given_with_the_record_wins():
    token = work.set(Running())
    try:
        found = line(record("so", session_id="another"))
    finally:
        work.reset(token)

    assert found["session_id"] == "another"


def test_a_line_has_the_ids_of_the_current_span(monkeypatch: pytest.MonkeyPatch):
    host: Host = traced(monkeypatch)
    with host.tracer.start_as_current_span("request"):
        found = line(record("so"))
    span = host.span("request")

    assert found["trace_id"] == f"{trace_of(span):032x}"
    assert found["span_id"] == f"{id_of(span):016x}"


def test_an_error_in_the_arguments_gives_its_type():
    error = ServiceUnreachable("database", Cause.SERVICE_UNAVAILABLE, "away")
    assert line(record(error))["error_type"] == "ServiceUnreachable"


def test_a_traceback_is_a_field_of_the_line():
    error = LookupError("nothing there")
    found = line(record("so", exc_info=(type(error), error, None)))

    assert found["error_type"] == "LookupError"
    assert found["traceback"].endswith("LookupError: nothing there")
