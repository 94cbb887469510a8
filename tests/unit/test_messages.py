"""The sentences of the command line."""

from datetime import UTC, date, datetime
from uuid import uuid4

import pytest

import guestledger
from guestledger import SessionNotFound, UnknownProjection
from guestledger.adapters.cli import messages
from guestledger.engine.domain import errors
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.retry import Wait, WaitBasis


def test_every_cause_has_a_sentence() -> None:
    assert set(messages.CAUSES) == set(Cause)


def test_every_wait_basis_has_a_sentence() -> None:
    assert set(messages.WAITS) == set(WaitBasis)


def test_every_denial_reason_has_a_sentence() -> None:
    assert set(messages.DENIALS) == set(DenialReason)


def test_every_step_has_a_sentence() -> None:
    assert set(messages.STEPS) == set(StepName)


def test_hints_belong_to_exceptions_of_the_public_api() -> None:
    assert set(messages.HINTS) <= set(guestledger.__all__)


@pytest.mark.parametrize("cause", Cause)
def test_cause_sentences_carry_their_facts(cause: Cause) -> None:
    sentence = messages.cause_sentence(cause, "E42", 418, "ch_1")
    assert sentence.endswith(": E42 (HTTP 418)")
    assert "{" not in sentence


def test_channel_causes_name_the_channel() -> None:
    assert messages.cause_sentence(Cause.CHANNEL_UNKNOWN, channel_id="ch_1") == "channel ch_1 does not exist"


@pytest.mark.parametrize(
    ("wait", "sentence"),
    [
        (
            Wait(ms=1_700, basis=WaitBasis.RETRY_AFTER, basis_ms=1_500, extra_ms=200, given="2"),
            "waits 1.7 s: Retry-After of 1.5 s, plus 200 ms",
        ),
        (
            Wait(ms=2_200, basis=WaitBasis.RETRY_AFTER_UNREADABLE, basis_ms=2_000, extra_ms=200, given="x"),
            "waits 2.2 s: unreadable Retry-After 'x', so the default of 2 s, plus 200 ms",
        ),
        (Wait(ms=800, basis=WaitBasis.BACKOFF, extra_ms=800), "waits 800 ms: backoff"),
    ],
    ids=["retry_after", "unreadable", "backoff"],
)
def test_wait_sentence(wait: Wait, sentence: str) -> None:
    assert messages.wait_sentence(wait) == sentence


UNTIL = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("denied", "sentence"),
    [
        (
            Denied(by=DenialReason.CLOSED, until=UNTIL, closed_by=WaitBasis.QUOTA),
            "the server asked for a pause (exhausted quota)",
        ),
        (Denied(by=DenialReason.RATE, until=UNTIL, rate=12.5), "the admitted rate is used up (12.5 a second)"),
        (
            Denied(by=DenialReason.CIRCUIT_OPEN, until=UNTIL, failures=10, probing=True),
            "the circuit is open: too many requests in a row failed (10), and a probe is in flight",
        ),
        (
            Denied(by=DenialReason.CONCURRENCY, until=UNTIL, in_flight=8),
            "the maximum of calls is in flight (8)",
        ),
    ],
    ids=["closed", "rate", "circuit_open", "concurrency"],
)
def test_denied_sentence(denied: Denied, sentence: str) -> None:
    assert messages.denied_sentence(denied) == sentence


@pytest.mark.parametrize(
    "error",
    [
        SessionNotFound("sess_1"),
        UnknownProjection("x", ["sessions"]),
        errors.PartitionDetached(uuid4(), date(2024, 3, 1)),
    ],
)
def test_error_lines_name_one_command(error: errors.GuestledgerError) -> None:
    line = messages.error_line(error)
    assert line.count("`guestledger ") == 1
    assert "\n" not in line


def test_error_line_of_a_service_says_why_and_what_to_check() -> None:
    down = errors.ServiceUnreachable("database", Cause.CONNECTION_REFUSED, "db:5432")
    assert messages.error_line(down) == (
        "database: the connection was refused: db:5432: check GUESTLEDGER_DATABASE_URL and that the server runs"
    )
