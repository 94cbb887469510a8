"""Poison events: the projection stops alone, says where and why, and continues after the fix."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from guestledger.adapters.postgres.projections import registry
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.adapters.postgres.projections.row_changes import RowChanges
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import GuestledgerError, ProjectionStopped, ServiceUnreachable
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.projections.status import ProjectionStatus
from tests import logs
from tests.keys import KEY
from tests.unit import samples

BEFORE = 3_000
"""Events before the poison: more than a batch, so that the poison is within one."""
AFTER = 100


async def status_of(read_models: PostgresReadModels) -> dict[str, ProjectionStatus]:
    return {found.name: found for found in await read_models.status()}


def ignored(_position: int) -> None:
    pass


def huge_attempt() -> e.Event:
    """Only `sessions` keeps the number of attempts, as a 32-bit integer."""
    return replace(logs.lifecycle(0)[2], attempt=2**40)


def message_with_nul() -> e.Event:
    """PostgreSQL accepts no NUL in a text, and only `sessions` keeps the detail."""
    return samples.has_failed(kind=FailureKind.IN_DOUBT, detail="a NUL: \0, then 203.0.113.77")


@pytest.mark.parametrize("poison", [huge_attempt, message_with_nul])
async def test_a_row_that_postgresql_rejects_stops_that_projection_alone(
    ledger_url: str,
    read_models: PostgresReadModels,
    caplog: pytest.LogCaptureFixture,
    poison: Callable[[], e.Event],
) -> None:
    await logs.write(ledger_url, BEFORE)
    opening = logs.lifecycle(0)[0]
    stream_id = await logs.write_events(ledger_url, [opening, poison()], after=BEFORE - 1)
    await logs.write(ledger_url, AFTER, after=BEFORE + 1)
    head = BEFORE + 1 + AFTER

    await read_models.catch_up()

    found = await status_of(read_models)
    assert {name: found[name].position for name in found} == {
        "sessions": BEFORE,
        "session_metrics": head,
        "audit_log": head,
    }
    assert found["sessions"].lag_events == head - BEFORE
    assert found["sessions"].stopped_at is not None
    error = found["sessions"].error or ""
    kind = wire_name(poison())
    assert error.startswith(f"event {BEFORE + 1} ({kind}, version 2 of stream {stream_id}) cannot be projected: ")
    assert "SQLSTATE 22" in error
    assert "203.0.113" not in error + caplog.text
    assert found["audit_log"].error is None
    assert [(record.levelno, error in record.getMessage()) for record in caplog.records] == [(logging.ERROR, True)]

    await read_models.catch_up()  # tries again, and logs nothing new
    again = (await status_of(read_models))["sessions"]
    assert (again.position, again.stopped_at, again.error) == (BEFORE, found["sessions"].stopped_at, error)
    assert len(caplog.records) == 1


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[list[RecordedEvent]], None]], None]:
    """`fault(name, fails)`: call `fails` with each batch of one projection."""

    def plant(name: str, fails: Callable[[list[RecordedEvent]], None]) -> None:
        sound = PROJECTIONS[name]

        async def apply(rows: RowChanges, events: list[RecordedEvent]) -> None:
            fails(events)
            await sound.apply(rows, events)

        monkeypatch.setitem(registry.PROJECTIONS, name, sound._replace(apply=apply))  # type: ignore[arg-type]

    return plant


def at_position(poisoned: int) -> Callable[[list[RecordedEvent]], None]:
    def fails(events: list[RecordedEvent]) -> None:
        for event in events:
            if event.position == poisoned:
                raise ValueError(f"cannot take {event.event} of 203.0.113.77")

    return fails


@pytest.mark.parametrize("name", PROJECTIONS)
async def test_a_fault_in_one_projection_stops_it_alone_until_the_fix(
    ledger_url: str,
    read_models: PostgresReadModels,
    fault: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    await logs.write(ledger_url, BEFORE)
    fault(name, at_position(2_345))
    await read_models.catch_up()
    found = await status_of(read_models)
    assert {other: found[other].position for other in found} == {**dict.fromkeys(PROJECTIONS, BEFORE - 1), name: 2_344}
    error = found[name].error or ""
    assert error.startswith("event 2345 (")
    assert ": ValueError in guestledger.adapters.postgres." in error
    assert "203.0.113" not in error

    monkeypatch.undo()
    await logs.write(ledger_url, AFTER, after=BEFORE - 1)
    await read_models.catch_up()

    found = await status_of(read_models)
    assert {found[other].position for other in found} == {BEFORE + AFTER - 1}
    assert (found[name].error, found[name].stopped_at, found[name].lag_seconds) == (None, None, 0.0)
    for other in PROJECTIONS:
        assert (await read_models.verify(other, ignored)).is_same


async def test_a_poisoned_first_event_leaves_the_projection_before_the_log(
    ledger_url: str, read_models: PostgresReadModels, fault: Callable[..., None]
) -> None:
    await logs.write(ledger_url, 10)
    fault("audit_log", at_position(0))
    await read_models.catch_up()
    assert (await status_of(read_models))["audit_log"].position == -1


async def test_an_event_of_a_newer_release_is_reported_and_not_skipped(
    ledger_url: str, read_models: PostgresReadModels
) -> None:
    await logs.write(ledger_url, BEFORE)
    stream_id = await logs.write_events(ledger_url, logs.lifecycle(0), after=BEFORE - 1, event_type="SessionTeleported")
    await read_models.catch_up()
    for found in await read_models.status():
        assert found.position == BEFORE - 1
        assert found.error == (
            f"event {BEFORE} (SessionTeleported, version 1 of stream {stream_id}) cannot be projected: "
            "event 'SessionTeleported' with schema version 1 is unknown to this release: a newer one wrote it"
        )


@pytest.mark.parametrize(
    "trouble",
    [
        ServiceUnreachable("database", Cause.CONNECTION_LOST),
        asyncpg.InterfaceError("gone"),
        OSError("gone"),
        asyncpg.DeadlockDetectedError("again"),
    ],
)
async def test_a_database_in_trouble_is_no_poison(
    ledger_url: str, read_models: PostgresReadModels, fault: Callable[..., None], trouble: Exception
) -> None:
    def fails(_events: list[RecordedEvent]) -> None:
        raise trouble

    await logs.write(ledger_url, 10)
    fault("sessions", fails)
    with pytest.raises(GuestledgerError):
        await read_models.catch_up()
    assert [(found.position, found.error) for found in await read_models.status()] == [(-1, None)] * 3


async def test_an_older_release_does_not_stop_a_newer_ones_projection(
    ledger_url: str, read_models: PostgresReadModels, new_read_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await logs.write(ledger_url, 10)
    older = new_read_models()
    sound = older._stop

    async def late(*given: Any) -> None:
        monkeypatch.undo()
        await read_models.catch_up()
        await sound(*given)

    monkeypatch.setattr(older, "_stop", late)
    monkeypatch.setitem(
        registry.PROJECTIONS,  # type: ignore[arg-type]
        "sessions",
        PROJECTIONS["sessions"]._replace(apply=_unable),
    )
    await older.catch_up()
    assert [(found.position, found.error) for found in await read_models.status()] == [(9, None)] * 3


async def _unable(_rows: RowChanges, _events: list[RecordedEvent]) -> None:
    raise ValueError


async def test_a_rebuild_stops_at_a_poison_event_and_resumes_after_the_fix(
    ledger_url: str, read_models: PostgresReadModels, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await logs.write(ledger_url, BEFORE)
    await read_models.catch_up()
    fault("sessions", at_position(2_345))
    with pytest.raises(ProjectionStopped, match=r"sessions cannot be rebuilt: event 2345 \(\w+, version \d of stream "):
        await read_models.rebuild("sessions", ignored)
    assert (await status_of(read_models))["sessions"].rebuilt_to == 2_344
    monkeypatch.undo()
    reached: list[int] = []
    await read_models.rebuild("sessions", reached.append)
    assert reached[0] > 2_344
    assert (await read_models.verify("sessions", ignored)).is_same


async def test_lag_counts_missing_events_and_the_age_of_the_oldest(
    ledger_url: str, read_models: PostgresReadModels
) -> None:
    empty = await status_of(read_models)
    assert {(found.position, found.head, found.lag_events, found.lag_seconds) for found in empty.values()} == {
        (-1, -1, 0, 0.0)
    }
    await logs.write(ledger_url, 100)
    await read_models.catch_up()
    await logs.write(ledger_url, 70, after=99)
    connection = await logs.connect(ledger_url)
    before: datetime = await connection.fetchval("SELECT clock_timestamp()")
    found = await status_of(read_models)
    after: datetime = await connection.fetchval("SELECT clock_timestamp()")
    await connection.close()
    oldest = logs.START + timedelta(milliseconds=100)
    for one in found.values():
        assert one.lag_events == 70
        assert (before - oldest).total_seconds() <= one.lag_seconds <= (after - oldest).total_seconds()
    await read_models.catch_up()
    assert {(one.lag_events, one.lag_seconds) for one in await read_models.status()} == {(0, 0.0)}


async def test_wait_for_returns_once_every_projection_is_there(ledger_url: str) -> None:
    async with connect(Settings(encryption_key=KEY, database_url=ledger_url), scheduler=False) as ledger:
        await logs.write(ledger_url, 100)
        await ledger.projections.wait_for(99)
        assert [found.position for found in await ledger.projections.status()] == [99] * 3
        with pytest.raises(TimeoutError):
            await ledger.projections.wait_for(100, timeout=0.2)


async def test_wait_for_raises_behind_a_poison_event(ledger_url: str, fault: Callable[..., None]) -> None:
    async with connect(Settings(encryption_key=KEY, database_url=ledger_url), scheduler=False) as ledger:
        await logs.write(ledger_url, 100)
        fault("audit_log", at_position(50))
        await ledger.projections.wait_for(49)
        with pytest.raises(ProjectionStopped, match="audit_log has stopped: event 50 "):
            await ledger.projections.wait_for(50)
