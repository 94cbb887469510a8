"""Rebuilding and verifying projections while everything else continues."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection

from guestledger.adapters.postgres.admin.migrate import config
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections import poison, rebuild
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.engine.domain.errors import RebuildInterrupted, UnknownProjection
from tests import logs
from tests.integration.conftest import PROJECTED_EVENTS, OpenEngine

pytestmark = pytest.mark.usefixtures("projected_log")

# One snapshot: the rows, and what they have to be at the checkpoint of the same snapshot.
SESSIONS = """
    SELECT (SELECT count(*) FROM guestledger.sessions),
           (SELECT count(*) FROM guestledger.sessions WHERE status = 'active'),
           (SELECT count(*) FROM guestledger.sessions WHERE channel_id = 'damaged'),
           count(*) FILTER (WHERE e.version = 1), count(*) FILTER (WHERE e.event_type = 'SessionCreated')
      FROM guestledger.checkpoints AS c JOIN guestledger.events AS e ON e.position <= c.position
     WHERE c.projection = 'sessions'"""
METRICS = """
    SELECT (SELECT sum(accepted) FROM guestledger.session_metrics),
           (SELECT sum(sessions) FROM guestledger.session_latencies),
           (SELECT sum(refused) FROM guestledger.session_metrics),
           count(*) FILTER (WHERE e.version = 1), count(*) FILTER (WHERE e.event_type = 'SessionCreated')
      FROM guestledger.checkpoints AS c JOIN guestledger.events AS e ON e.position <= c.position
     WHERE c.projection = 'session_metrics'"""
DAMAGE = {
    "sessions": "UPDATE guestledger.sessions SET channel_id = 'damaged'",
    "session_metrics": "UPDATE guestledger.session_metrics SET refused = 1",
}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (poison, rebuild):
        monkeypatch.setattr(module, "BATCH", 64)


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[Any]:
    connection = await logs.connect(database_url)
    yield connection
    await connection.close()


def ignored(_position: int) -> None:
    pass


class Crash(Exception):
    pass


async def crash_in_mid_rebuild(read_models: PostgresReadModels, name: str) -> int:
    """Returns the last position that was reported."""
    reported: list[int] = []

    def crash(position: int) -> None:
        reported.append(position)
        if len(reported) == 3:
            raise Crash

    with pytest.raises(Crash):
        await read_models.rebuild(name, crash)
    return reported[-1]


@pytest.mark.parametrize(("name", "reading"), [("sessions", SESSIONS), ("session_metrics", METRICS)])
async def test_a_reader_sees_a_rebuild_as_one_change(
    database_url: str, read_models: PostgresReadModels, sql: Any, name: str, reading: str
) -> None:
    await sql.execute(DAMAGE[name])
    seen: list[tuple[int, ...]] = [tuple(await sql.fetchrow(reading))]
    written = PROJECTED_EVENTS

    async def write() -> None:
        nonlocal written
        while not rebuilding.done():
            await logs.write(database_url, 50, after=written - 1)
            written += 50
            await read_models.catch_up()

    async def read() -> None:
        while not rebuilding.done():
            seen.append(tuple(await sql.fetchrow(reading)))

    rebuilding = asyncio.create_task(read_models.rebuild(name, ignored))
    await asyncio.gather(rebuilding, write(), read())
    await read_models.catch_up()
    seen.append(tuple(await sql.fetchrow(reading)))

    assert rebuilding.result() > 0
    for opened, created, _damaged, opened_in_log, created_in_log in seen:
        assert (opened, created) == (opened_in_log, created_in_log)
    damaged = [row[2] for row in seen]
    assert damaged == sorted(damaged, reverse=True)
    assert set(damaged) == {damaged[0], 0}
    assert written > PROJECTED_EVENTS
    assert (await read_models.verify(name, ignored)).is_same


@pytest.mark.parametrize("name", PROJECTIONS)
async def test_a_rebuild_resumes_after_a_crash(read_models: PostgresReadModels, sql: Any, name: str) -> None:
    reached = await crash_in_mid_rebuild(read_models, name)
    reported: list[int] = []
    [status] = [one for one in await read_models.status() if one.name == name]
    assert status.rebuilt_to == reached
    await read_models.rebuild(name, reported.append)
    assert reported[0] > reached
    assert (await read_models.verify(name, ignored)).is_same
    assert await sql.fetchval("SELECT count(*) FROM guestledger.checkpoints") == len(PROJECTIONS)


async def test_a_crash_while_rows_are_replaced_leaves_the_live_rows(
    read_models: PostgresReadModels, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.execute(DAMAGE["session_metrics"])
    before = await sql.fetchrow(METRICS)
    await crash_in_mid_rebuild(read_models, "session_metrics")

    async def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(rebuild.Rebuild, "_clear", crash)
        with pytest.raises(Crash):
            await read_models.rebuild("session_metrics", ignored)
    assert await sql.fetchrow(METRICS) == before
    await read_models.rebuild("session_metrics", ignored)
    assert (await sql.fetchrow(METRICS))[2] == 0


async def test_an_older_snapshot_keeps_the_old_rows_and_blocks_nothing(
    database_url: str, read_models: PostgresReadModels, sql: Any
) -> None:
    await sql.execute(DAMAGE["sessions"])
    other = await logs.connect(database_url)
    async with other.transaction(isolation="repeatable_read"):
        before = await other.fetchrow(SESSIONS)
        await read_models.rebuild("sessions", ignored)
        assert await other.fetchrow(SESSIONS) == before
    await other.close()
    assert (await sql.fetchrow(SESSIONS))[2] == 0


@pytest.mark.parametrize("work", [PostgresReadModels.rebuild, PostgresReadModels.verify])
async def test_no_event_is_projected_between_the_last_batch_and_the_swap(
    database_url: str,
    read_models: PostgresReadModels,
    sql: Any,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[..., Awaitable[object]],
) -> None:
    projector: list[asyncio.Task[int]] = []
    build_to = rebuild.Rebuild._build_to

    async def build_then_let_the_projector_try(self: rebuild.Rebuild, last: int) -> None:
        await build_to(self, last)
        await logs.write(database_url, 50, after=PROJECTED_EVENTS - 1 + 50 * len(projector))
        projector.append(asyncio.create_task(read_models.catch_up()))
        await until_blocked_or_done(sql, projector[-1])

    snapshot = rebuild.Rebuild._snapshot

    @asynccontextmanager
    async def let_the_projector_try_before_the_snapshot(self: rebuild.Rebuild) -> AsyncIterator[Any]:
        await until_blocked_or_done(sql, projector[-1])
        async with snapshot(self) as seen:
            yield seen

    monkeypatch.setattr(rebuild.Rebuild, "_build_to", build_then_let_the_projector_try)
    monkeypatch.setattr(rebuild.Rebuild, "_snapshot", let_the_projector_try_before_the_snapshot)
    found = await work(read_models, "session_metrics", ignored)
    await asyncio.gather(*projector)
    assert getattr(found, "is_same", True)
    monkeypatch.undo()
    assert tuple(await sql.fetchrow(METRICS))[:2] == tuple(await sql.fetchrow(METRICS))[3:]
    assert (await read_models.verify("session_metrics", ignored)).is_same


async def until_blocked_or_done(sql: Any, task: asyncio.Task[int]) -> None:
    waiting = """
        SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"""
    while not task.done() and not await sql.fetchval(waiting):
        await asyncio.sleep(0.005)


async def test_two_concurrent_rebuilds_leave_correct_rows(read_models: PostgresReadModels) -> None:
    outcomes = await asyncio.gather(
        *(read_models.rebuild("session_metrics", ignored) for _ in range(2)), return_exceptions=True
    )
    assert any(isinstance(outcome, int) for outcome in outcomes)
    assert all(isinstance(outcome, int | RebuildInterrupted) for outcome in outcomes), outcomes
    assert (await read_models.verify("session_metrics", ignored)).is_same


async def test_the_exchange_of_all_rows_may_take_longer_than_other_statements(ledger_url: str, sql: Any) -> None:
    await sql.execute(DAMAGE["sessions"])
    await sql.execute(
        """CREATE FUNCTION guestledger.slowly() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN PERFORM pg_sleep(6); RETURN NULL; END';
           CREATE TRIGGER slowly BEFORE UPDATE ON guestledger.sessions
               FOR EACH STATEMENT EXECUTE FUNCTION guestledger.slowly()"""
    )
    engine = open_engine(ledger_url, "guestledger", pool_size=2, command_timeout=5)
    try:
        assert await PostgresReadModels(engine, "guestledger").rebuild("sessions", ignored) > 0
    finally:
        await engine.dispose()


async def test_a_hosts_view_and_grants_survive_a_rebuild(
    read_models: PostgresReadModels, sql: Any, new_engine: OpenEngine
) -> None:
    await sql.execute("CREATE VIEW public.mine AS SELECT count(*) AS n FROM guestledger.sessions")
    await sql.execute("GRANT SELECT ON guestledger.sessions TO PUBLIC")
    for name in PROJECTIONS:
        await read_models.rebuild(name, ignored)
    assert await sql.fetchval("SELECT n FROM public.mine") == (await sql.fetchrow(SESSIONS))[3]
    assert await sql.fetchval("SELECT relacl::text FROM pg_class WHERE oid = 'guestledger.sessions'::regclass")

    def check(connection: Connection) -> None:
        alembic = config("guestledger")
        alembic.attributes["connection"] = connection
        command.check(alembic)

    async with new_engine().begin() as connection:
        await connection.run_sync(check)


async def test_verify_names_rows_changed_by_hand_and_leaves_them(read_models: PostgresReadModels, sql: Any) -> None:
    changed, removed = [
        row["id"] for row in await sql.fetch("SELECT id FROM guestledger.audit_log ORDER BY id DESC LIMIT 2")
    ]
    added = "018f96c2-7a60-7000-8000-0000000000a1"
    await sql.execute("UPDATE guestledger.audit_log SET compliance_status = 'refused' WHERE id = $1", changed)
    await sql.execute(
        "INSERT INTO guestledger.audit_log SELECT (r).* FROM (SELECT jsonb_populate_record(a, "
        f"""'{{"id": "{added}"}}') AS r FROM guestledger.audit_log AS a WHERE id = $1) AS copied""",
        changed,
    )
    await sql.execute("DELETE FROM guestledger.audit_log WHERE id = $1", removed)
    before = await sql.fetch("SELECT * FROM guestledger.audit_log ORDER BY id")

    found = await read_models.verify("audit_log", ignored)

    assert not found.is_same
    assert set(found.differing) == {
        f"audit_log {added} is not in the log",
        f"audit_log {removed} is missing",
        f"audit_log {changed} differs",
    }
    assert await sql.fetch("SELECT * FROM guestledger.audit_log ORDER BY id") == before
    assert await sql.fetchval("SELECT count(*) FROM guestledger.audit_log_shadow") == 0
    assert await read_models.rebuild("audit_log", ignored) == 3
    assert (await read_models.verify("audit_log", ignored)).is_same


async def test_verify_finds_one_latency_that_is_off_by_one(read_models: PostgresReadModels, sql: Any) -> None:
    await sql.execute(
        "UPDATE guestledger.session_latencies SET sessions = sessions + 1 WHERE ctid = '(0,1)'",
    )
    [differing] = (await read_models.verify("session_metrics", ignored)).differing
    assert differing.startswith("session_latencies ch_")


@pytest.mark.parametrize("name", PROJECTIONS)
async def test_verify_passes_while_writers_write(database_url: str, read_models: PostgresReadModels, name: str) -> None:
    async def write() -> None:
        written = PROJECTED_EVENTS
        while not verifying.done():
            await logs.write(database_url, 50, after=written - 1)
            written += 50
            await read_models.catch_up()

    verifying = asyncio.create_task(read_models.verify(name, ignored))
    await asyncio.gather(verifying, write())
    assert verifying.result().is_same
    assert verifying.result().position >= PROJECTED_EVENTS - 1


async def test_verify_is_refused_during_a_rebuild_which_replaces_a_verify(
    read_models: PostgresReadModels,
) -> None:
    reached = await crash_in_mid_rebuild(read_models, "sessions")
    with pytest.raises(RebuildInterrupted, match="a rebuild of sessions is unfinished"):
        await read_models.verify("sessions", ignored)
    [status] = [one for one in await read_models.status() if one.name == "sessions"]
    assert status.rebuilt_to == reached
    await read_models.rebuild("sessions", ignored)

    def take_over(_position: int) -> None:
        raise Crash

    with pytest.raises(Crash):
        await read_models.verify("sessions", take_over)
    reported: list[int] = []
    await read_models.rebuild("sessions", reported.append)
    assert reported[0] == poison.BATCH - 1
    assert (await read_models.verify("sessions", ignored)).is_same


async def test_an_unknown_projection_is_named_with_the_known_ones(read_models: PostgresReadModels) -> None:
    with pytest.raises(UnknownProjection, match="'session': there are sessions, session_metrics, audit_log"):
        await read_models.rebuild("session", ignored)
