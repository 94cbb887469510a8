"""The sentences of the command line."""

from datetime import UTC, date, datetime
from types import SimpleNamespace
from uuid import uuid4

import pytest

from guestledger import SessionNotFound, UnknownProjection
from guestledger.adapters.cli import messages
from guestledger.engine.domain import errors
from guestledger.engine.domain.causes import Cause
from guestledger.engine.limits import retry

WAIT_BASES = getattr(retry, "WaitBasis", ())


def test_every_cause_has_a_sentence() -> None:
    assert set(messages.CAUSES) == set(Cause)


def test_every_wait_basis_has_a_sentence() -> None:
    assert not WAIT_BASES or set(messages.WAITS) == set(WAIT_BASES)


def test_every_denial_reason_has_a_sentence() -> None:
    try:
        from guestledger.engine.limits.admission import DenialReason  # noqa: PLC0415
    except ImportError:
        pytest.skip("the engine has no denial reasons yet")
    assert set(messages.DENIALS) == set(DenialReason)


def test_hints_belong_to_exceptions_of_the_public_api() -> None:
    import guestledger  # noqa: PLC0415

    assert set(messages.HINTS) <= set(guestledger.__all__)


@pytest.mark.parametrize("cause", Cause)
def test_cause_sentences_carry_their_facts(cause: Cause) -> None:
    sentence = messages.cause_sentence(cause, "E42", 418, "ch_1")
    assert sentence.endswith(": E42 (HTTP 418)")
    assert "{" not in sentence


def test_channel_causes_name_the_channel() -> None:
    assert messages.cause_sentence(Cause.CHANNEL_UNKNOWN, channel_id="ch_1") == "channel ch_1 does not exist"


def wait(basis: str, **facts: object) -> SimpleNamespace:
    return SimpleNamespace(**({"basis": basis, "ms": 1_700, "basis_ms": 1_500, "extra_ms": 200, "given": "x"} | facts))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (wait("retry_after"), "waits 1.7 s: Retry-After of 1.5 s, plus 200 ms"),
        (
            wait("retry_after_unreadable"),
            "waits 1.7 s: unreadable Retry-After 'x', so the default of 1.5 s, plus 200 ms",
        ),
        (wait("backoff", ms=800, basis_ms=0, extra_ms=800), "waits 800 ms: backoff"),
    ],
)
def test_wait_sentence(asked: SimpleNamespace, sentence: str) -> None:
    assert messages.wait_sentence(asked) == sentence


def denied(by: str, **facts: object) -> SimpleNamespace:
    nothing = {"closed_by": None, "rate": None, "failures": None, "probing": False, "in_flight": None}
    return SimpleNamespace(**(nothing | {"by": by, "until": datetime(2030, 1, 1, tzinfo=UTC)} | facts))


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (denied("closed", closed_by="quota"), "the server asked for a pause (exhausted quota)"),
        (denied("rate", rate=12.5), "the admitted rate is used up (12.5 a second)"),
        (
            denied("circuit_open", failures=10, probing=True),
            "the circuit is open: too many requests in a row failed (10), and a probe is in flight",
        ),
        (denied("concurrency", in_flight=8), "the maximum of calls is in flight (8)"),
    ],
)
def test_denied_sentence(found: SimpleNamespace, sentence: str) -> None:
    assert messages.denied_sentence(found) == sentence


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


class ServiceDown(errors.ServiceUnreachable):
    """An error with the attributes that codes need."""

    service, cause, detail = "database", Cause.CONNECTION_REFUSED, "db:5432"


def test_error_line_of_a_service_says_why_and_what_to_check() -> None:
    assert messages.error_line(ServiceDown()) == (
        "database: the connection was refused: db:5432: check GUESTLEDGER_DATABASE_URL and that the server runs"
    )
