"""Events that a projection cannot take in: it stands still alone, says where and why, and goes on after the fix."""

import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections import registry as projections
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.projections.registry import PROJECTIONS, Projection, RowChanges
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain import events as e
from guestledger.engine.domain.errors import GuestledgerError, ProjectionStopped, ServiceUnreachable
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.projections.status import ProjectionStatus
from tests import logs

BEFORE = 3_000
"""Events in front of the poison, more than a batch of them; the poison is in mid-batch."""
AFTER = 100


@pytest.fixture
async def engine(ledger_url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(ledger_url, "guestledger")
    yield engine
    await engine.dispose()


@pytest.fixture
def read_models(engine: AsyncEngine) -> PostgresReadModels:
    return PostgresReadModels(engine, "guestledger")


async def standing(read_models: PostgresReadModels) -> dict[str, ProjectionStatus]:
    return {found.name: found for found in await read_models.standing()}


def unheard(_position: int) -> None:
    pass


def huge_attempt() -> e.Event:
    """Only `sessions` keeps the number of attempts, as a 32-bit integer."""
    return replace(logs.lifecycle(0)[2], attempt=2**40)


def message_with_nul() -> e.Event:
    """PostgreSQL takes no NUL in a text; only `sessions` keeps the reason."""
    at = logs.START
    return e.CreationFailed(
        at=at,
        channel_id="ch_00",
        attempt=1,
        kind=e.FailureKind.IN_DOUBT,
        status=None,
        message="a NUL: \0, then 203.0.113.77",
        wait_ms=10,
        reason=None,
        retry_at=at,
    )


@pytest.mark.parametrize("poison", [huge_attempt, message_with_nul])
async def test_a_row_that_postgres_refuses_stops_that_projection_alone_right_before_the_event(
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

    found = await standing(read_models)
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

    await read_models.catch_up()  # tries again, and has nothing new to tell
    again = (await standing(read_models))["sessions"]
    assert (again.position, again.stopped_at, again.error) == (BEFORE, found["sessions"].stopped_at, error)
    assert len(caplog.records) == 1


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[list[RecordedEvent]], None]], None]:
    """Plants a fault into one projection: it is called with each batch."""

    def plant(name: str, fails: Callable[[list[RecordedEvent]], None]) -> None:
        sound = PROJECTIONS[name]

        async def apply(rows: RowChanges, events: list[RecordedEvent]) -> None:
            fails(events)
            await sound.apply(rows, events)

        monkeypatch.setitem(projections.PROJECTIONS, name, Projection(sound.tables, apply))  # type: ignore[arg-type]

    return plant


def at_position(poisoned: int) -> Callable[[list[RecordedEvent]], None]:
    def fails(events: list[RecordedEvent]) -> None:
        for event in events:
            if event.position == poisoned:
                raise ValueError(f"cannot take {event.event} of 203.0.113.77")

    return fails


@pytest.mark.parametrize("name", PROJECTIONS)
async def test_a_fault_in_one_projection_stops_it_alone_and_after_the_fix_it_goes_on_by_itself(
    ledger_url: str,
    read_models: PostgresReadModels,
    fault: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    await logs.write(ledger_url, BEFORE)
    fault(name, at_position(2_345))
    await read_models.catch_up()
    found = await standing(read_models)
    assert {other: found[other].position for other in found} == {**dict.fromkeys(PROJECTIONS, BEFORE - 1), name: 2_344}
    error = found[name].error or ""
    assert error.startswith("event 2345 (")
    assert ": ValueError in guestledger.adapters.postgres." in error
    assert "203.0.113" not in error

    monkeypatch.undo()
    await logs.write(ledger_url, AFTER, after=BEFORE - 1)
    await read_models.catch_up()

    found = await standing(read_models)
    assert {found[other].position for other in found} == {BEFORE + AFTER - 1}
    assert (found[name].error, found[name].stopped_at, found[name].lag_seconds) == (None, None, 0.0)
    for other in PROJECTIONS:
        assert (await read_models.verify(other, unheard)).is_same


async def test_a_poisoned_first_event_leaves_the_projection_before_the_log(
    ledger_url: str, read_models: PostgresReadModels, fault: Callable[..., None]
) -> None:
    await logs.write(ledger_url, 10)
    fault("audit_log", at_position(0))
    await read_models.catch_up()
    assert (await standing(read_models))["audit_log"].position == -1


async def test_an_event_of_a_newer_release_is_reported_and_never_passed_over(
    ledger_url: str, read_models: PostgresReadModels
) -> None:
    await logs.write(ledger_url, BEFORE)
    stream_id = await logs.write_events(ledger_url, logs.lifecycle(0), after=BEFORE - 1, event_type="SessionTeleported")
    await read_models.catch_up()
    for found in await read_models.standing():
        assert found.position == BEFORE - 1
        assert found.error == (
            f"event {BEFORE} (SessionTeleported, version 1 of stream {stream_id}) cannot be projected: "
            "event 'SessionTeleported' with schema version 1 is not known to this release: it was written by a newer release; "
            "upgrade guestledger here; after that it goes on by itself"
        )


@pytest.mark.parametrize(
    "trouble",
    [
        ServiceUnreachable("gone"),
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
    assert [(found.position, found.error) for found in await read_models.standing()] == [(-1, None)] * 3


async def test_an_older_release_does_not_stop_what_a_newer_one_has_taken_past_the_event(
    ledger_url: str, read_models: PostgresReadModels, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await logs.write(ledger_url, 10)
    older = PostgresReadModels(engine, "guestledger")
    sound = older._stop

    async def late(*given: Any) -> None:
        monkeypatch.undo()
        await read_models.catch_up()
        await sound(*given)

    monkeypatch.setattr(older, "_stop", late)
    monkeypatch.setitem(
        projections.PROJECTIONS,  # type: ignore[arg-type]
        "sessions",
        Projection(PROJECTIONS["sessions"].tables, _unable),
    )
    await older.catch_up()
    assert [(found.position, found.error) for found in await read_models.standing()] == [(9, None)] * 3


async def _unable(_rows: RowChanges, _events: list[RecordedEvent]) -> None:
    raise ValueError


async def test_a_rebuild_ends_at_the_event_that_it_cannot_take_in_and_goes_on_from_there_after_the_fix(
    ledger_url: str, read_models: PostgresReadModels, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await logs.write(ledger_url, BEFORE)
    await read_models.catch_up()
    fault("sessions", at_position(2_345))
    with pytest.raises(ProjectionStopped, match=r"sessions cannot be rebuilt: event 2345 \(\w+, version \d of stream "):
        await read_models.rebuild("sessions", unheard)
    assert (await standing(read_models))["sessions"].rebuilt_to == 2_344
    monkeypatch.undo()
    told: list[int] = []
    await read_models.rebuild("sessions", told.append)
    assert told[0] > 2_344
    assert (await read_models.verify("sessions", unheard)).is_same


async def test_lag_is_the_events_that_are_missing_and_the_age_of_the_oldest_of_them(
    ledger_url: str, read_models: PostgresReadModels
) -> None:
    empty = await standing(read_models)
    assert {(found.position, found.head, found.lag_events, found.lag_seconds) for found in empty.values()} == {
        (-1, -1, 0, 0.0)
    }
    await logs.write(ledger_url, 100)
    await read_models.catch_up()
    await logs.write(ledger_url, 70, after=99)
    connection = await logs.connect(ledger_url)
    before: datetime = await connection.fetchval("SELECT clock_timestamp()")
    found = await standing(read_models)
    after: datetime = await connection.fetchval("SELECT clock_timestamp()")
    await connection.close()
    oldest = logs.START + timedelta(milliseconds=100)
    for one in found.values():
        assert one.lag_events == 70
        assert (before - oldest).total_seconds() <= one.lag_seconds <= (after - oldest).total_seconds()
    await read_models.catch_up()
    assert {(one.lag_events, one.lag_seconds) for one in await read_models.standing()} == {(0, 0.0)}


async def test_waiting_for_a_position_returns_once_every_projection_holds_it(ledger_url: str) -> None:
    async with connect(Settings(database_url=ledger_url), scheduler=False) as ledger:
        await logs.write(ledger_url, 100)
        await ledger.projections.wait_for(99)
        assert [found.position for found in await ledger.projections.status()] == [99] * 3
        with pytest.raises(TimeoutError):
            await ledger.projections.wait_for(100, timeout=0.2)


async def test_waiting_behind_a_poisoned_event_ends_with_its_error(ledger_url: str, fault: Callable[..., None]) -> None:
    async with connect(Settings(database_url=ledger_url), scheduler=False) as ledger:
        await logs.write(ledger_url, 100)
        fault("audit_log", at_position(50))
        await ledger.projections.wait_for(49)
        with pytest.raises(ProjectionStopped, match="audit_log has stopped: event 50 "):
            await ledger.projections.wait_for(50)
