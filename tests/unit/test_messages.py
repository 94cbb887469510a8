"""The sentences of the command line: every code has one, and every error says what to do."""

import logging
from collections.abc import Collection
from datetime import UTC, date, datetime
from uuid import uuid4

import pytest

import guestledger
from guestledger.adapters.cli import error_lines, log_lines
from guestledger.adapters.forms import condition_lines, messages
from guestledger.adapters.postgres import errors as database, unusable
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import (
    CredentialsRefused,
    GuestledgerError,
    PartitionDetached,
    RedeliveryRefusal,
    RedeliveryRefused,
    RequestDenied,
    ResolutionRefused,
    ServiceUnreachable,
    SessionNotFound,
)
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.retry import Wait, WaitBasis
from guestledger.engine.operations.conditions import Condition, ConditionName
from guestledger.engine.replay.waits import WaitedFor

UNTIL = datetime(2030, 1, 1, tzinfo=UTC)
ID = uuid4()


@pytest.mark.parametrize(
    ("sentences", "codes"),
    [
        (messages.CAUSES, Cause),
        (messages.WAITS, WaitBasis),
        (messages.DENIALS, DenialReason),
        (condition_lines.SENTENCES, ConditionName),
        (messages.WAITED, WaitedFor),
        (error_lines.REDELIVERIES, RedeliveryRefusal),
        (error_lines.DATABASE_HINTS, unusable.DatabaseProblem),
        (unusable.FACTS, unusable.DatabaseProblem),
    ],
)
def test_every_code_has_a_sentence(sentences: Collection[str], codes: Collection[str]) -> None:
    assert set(sentences) == set(codes)


def test_hints_belong_to_public_exceptions() -> None:
    assert set(error_lines.HINTS) <= set(guestledger.__all__)


@pytest.mark.parametrize("cause", Cause)
def test_cause_sentences_carry_their_facts(cause: Cause) -> None:
    sentence = messages.cause_sentence(cause, "E42", 418, "ch_1")
    assert sentence.endswith(": E42 (HTTP 418)")
    assert "{" not in sentence


def test_channel_causes_name_the_channel() -> None:
    assert messages.cause_sentence(Cause.CHANNEL_UNKNOWN, channel_id="ch_1") == "channel ch_1 does not exist"


@pytest.mark.parametrize("basis", WaitBasis)
def test_every_wait_can_be_worded(basis: WaitBasis) -> None:
    assert messages.wait_sentence(Wait(ms=10, basis=basis)).startswith("waits 10 ms: ")


@pytest.mark.parametrize(
    ("basis", "basis_ms", "sentence"),
    [
        (WaitBasis.RETRY_AFTER, 1_500, "waits 1.7 s: Retry-After of 1.5 s, plus 200 ms"),
        (
            WaitBasis.RETRY_AFTER_UNREADABLE,
            1_500,
            "waits 1.7 s: unreadable Retry-After 'x', so the default of 1.5 s, plus 200 ms",
        ),
        (WaitBasis.BACKOFF, 0, "waits 1.7 s: backoff"),
    ],
)
def test_wait_sentence(basis: WaitBasis, basis_ms: int, sentence: str) -> None:
    assert messages.wait_sentence(Wait(ms=1_700, basis=basis, basis_ms=basis_ms, extra_ms=200, given="x")) == sentence


@pytest.mark.parametrize(
    ("denied", "sentence"),
    [
        (
            Denied(by=DenialReason.CLOSED, until=UNTIL, closed_by=WaitBasis.QUOTA),
            "the server asked for a pause (exhausted quota)",
        ),
        (
            Denied(by=DenialReason.RATE, until=UNTIL, rate=12.5),
            "the admitted rate is used up (12.5 a second, learned from the API's answers)",
        ),
        (
            Denied(by=DenialReason.CIRCUIT_OPEN, until=UNTIL, failures=10, probing=True),
            "the circuit is open: too many requests in a row failed (10 failures, a probe is in flight)",
        ),
        (Denied(by=DenialReason.CONCURRENCY, until=UNTIL, in_flight=8), "the maximum of calls is in flight (8)"),
        (Denied(by=DenialReason.RETRY_BUDGET, until=UNTIL), "the retry budget is used up"),
    ],
)
def test_denied_sentence(denied: Denied, sentence: str) -> None:
    assert messages.denied_sentence(denied) == sentence


def test_a_due_time_line_joins_time_cause_and_wait() -> None:
    wait = Wait(ms=600_000, basis=WaitBasis.RETRY_AFTER, basis_ms=600_000)
    found = Condition(name=ConditionName.DUE_TIME, met=False, until=UNTIL, cause=Cause.THROTTLED, wait=wait)
    assert condition_lines.condition_line(found) == (
        "  NO   due time      not before 2030-01-01 00:00:00.000; throttled; waits 600 s: Retry-After of 600 s"
    )


CLOSED = Denied(by=DenialReason.CLOSED, until=UNTIL, closed_by=WaitBasis.RETRY_AFTER)
LINES = [
    (SessionNotFound("sess_1"), "no session has the id 'sess_1': `guestledger sessions` lists them"),
    (PartitionDetached(ID, date(2024, 3, 1)), "`guestledger partitions attach 2024-03` attaches it again"),
    (ResolutionRefused(ID, status="active"), "its status is active: `guestledger sessions --status parked`"),
    (ResolutionRefused(ID, status="parked", holder=ID), "has that remote session"),
    (RedeliveryRefused(ID, RedeliveryRefusal.NO_WEBHOOK, "active"), "set GUESTLEDGER_WEBHOOK_URL"),
    (RequestDenied("provider", "api", CLOSED), "until 2030-01-01T00:00:00Z: rate limiter 'api': the server asked"),
    (CredentialsRefused("token endpoint", Cause.UNAUTHORIZED), "GUESTLEDGER_CXONE_CLIENT_SECRET"),
    (
        CredentialsRefused("token endpoint", Cause.UNAUTHORIZED, "host:443, invalid_client"),
        "refused the credentials: host:443, invalid_client: check GUESTLEDGER_CXONE_CLIENT_ID",
    ),
    (
        CredentialsRefused("token endpoint", Cause.SCOPE_REFUSED, "host:443, invalid_scope"),
        "refused the request: the scope that is asked for is not granted: host:443, invalid_scope: check the client's scopes",
    ),
    (CredentialsRefused("token endpoint", Cause.GRANT_REFUSED), "`Profile(grant=…)`"),
    (
        ServiceUnreachable("database", Cause.CONNECTION_REFUSED),
        "the database cannot be used: the connection was refused: check GUESTLEDGER_DATABASE_URL",
    ),
    (ServiceUnreachable("provider", Cause.NOT_CONFIGURED), "set GUESTLEDGER_CXONE_URL and the credentials"),
    (ServiceUnreachable("token endpoint", Cause.NO_ADDRESS, "host:443"), "check GUESTLEDGER_CXONE_URL"),
    (database.LedgerNotReady(database.LedgerProblem.MISSING), "run `guestledger db upgrade`"),
    (database.LedgerNotReady(database.LedgerProblem.TOO_NEW), "upgrade guestledger here"),
    (database.NotAllowed(database.Access.STATEMENT, "denied"), "a member of guestledger_runtime"),
    (database.NotAllowed(database.Access.CHANGE_TABLES, "denied", role="x_owner"), "GUESTLEDGER_MIGRATION_URL"),
    (database.NotAllowed(database.Access.RUN, "denied", role="x", member=True), "`guestledger db upgrade`"),
    (database.TooManyPrivileges("u", ("owns it",), "x", role_exists=True), "GUESTLEDGER_ALLOW_OWNER=1"),
    (
        database.PartitionBlocked(date(2024, 3, 1), [(database.PartitionProblem.NOT_CONSUMED, "queue")]),
        "`guestledger consumers --forget queue`",
    ),
]


@pytest.mark.parametrize(("error", "words"), LINES)
def test_error_line_says_what_to_do(error: GuestledgerError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUESTLEDGER_DATABASE_URL", "postgresql://host/ledger")
    line = error_lines.error_line(error)
    assert words in line
    assert "\n" not in line


def test_settings_are_named_once() -> None:
    unreachable = ServiceUnreachable("database", Cause.CONNECTION_REFUSED, "check GUESTLEDGER_MIGRATION_URL")
    assert "GUESTLEDGER_DATABASE_URL" not in error_lines.error_line(unreachable)


def test_log_records_get_the_sentences() -> None:
    error = ServiceUnreachable("database", Cause.CONNECTION_LOST)
    record = logging.LogRecord("guestledger", logging.WARNING, "", 0, "waiting: %s", (error,), None)
    assert log_lines.Sentences().filter(record)
    assert record.getMessage() == f"waiting: {error_lines.error_line(error)}"
