"""The log is stored by months: they are made ahead, and old ones can be taken out of it and brought back."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.archive import Archive
from guestledger.adapters.postgres.admin.migrate import config
from guestledger.adapters.postgres.admin.partitions import PostgresPartitions
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections import poison, rebuild
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.engine.domain.errors import PartitionDetached, PartitionRefused
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.recorded import month_of
from guestledger.engine.projections.audit import AuditFilter
from tests import logs
from tests.integration.appends import an_append, leaf_of
from tests.integration.plain_sql import SCHEMA, connect_plainly
from tests.postgres import as_administrator, new_login
from tests.unit import samples

MARCH, APRIL = date(2024, 3, 1), date(2024, 4, 1)
IN_MARCH, IN_APRIL = datetime(2024, 3, 31, 23, 59, 59, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
AHEAD = 4
"""Partitions there are at any time: this one, and the three that come."""
SESSIONS = 30
EVENTS = 5 * SESSIONS


@pytest.fixture
def months(new_engine: Any) -> PostgresPartitions:
    return PostgresPartitions(new_engine(), SCHEMA)


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Who may change tables, and has not made them himself."""
    async with new_login(as_administrator(database_url), "IN ROLE guestledger_owner") as url:
        engine = open_engine(url, SCHEMA)
        yield engine
        await engine.dispose()


@pytest.fixture
def archive(owner: AsyncEngine) -> Archive:
    return Archive(owner, SCHEMA)


@pytest.fixture
async def by_owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection by plain SQL that may do everything."""
    connection = await connect_plainly(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def three_months(database_url: str, archive: Archive, read_models: PostgresReadModels) -> None:
    """Sessions that began in March 2024, in April 2024 and now, all of it projected."""
    for number, began in enumerate((IN_MARCH, IN_APRIL, None)):
        await logs.write(database_url, EVENTS, after=number * EVENTS - 1, began=began)
    await archive.settle()
    await read_models.catch_up()


async def positions(store: PostgresEventStore) -> list[int]:
    return [event.position async for batch in store.read_all() for event in batch]


async def verified(read_models: PostgresReadModels) -> list[bool]:
    return [(await read_models.verify(name, lambda _: None)).is_same for name in PROJECTIONS]


async def derived(sql: Any) -> list[Any]:
    return [
        await sql(f"SELECT * FROM {t.name} ORDER BY {t.name}::text") for p in PROJECTIONS.values() for t in p.tables
    ]


async def months_of(months: PostgresPartitions) -> dict[date | None, bool]:
    return {month.month: month.attached for month in await months.all()}


# Where events lie


@pytest.mark.parametrize(
    ("began", "month"),
    [(IN_MARCH, "2024_03"), (IN_APRIL, "2024_04"), (None, None)],
    ids=["March", "April", "now"],
)
async def test_a_stream_lies_in_the_month_in_which_it_began(
    began: datetime | None, month: str | None, store: Any, archive: Archive, by_owner: asyncpg.Connection
) -> None:
    stream_id = logs.new_stream(began)
    month = month or f"{month_of(stream_id):%Y_%m}"  # a month may have ended since the tests were collected
    await store.append(an_append(stream_id))
    await archive.settle()
    await store.append(an_append(stream_id, expected=1))

    found = await by_owner.fetch("SELECT DISTINCT tableoid::regclass::text FROM events")

    assert [name for (name,) in found] == [f"events_{month}"]


async def test_the_months_that_come_are_made_by_whoever_looks_after_the_ledger_and_once_only(
    new_engine: Any, by_owner: asyncpg.Connection
) -> None:
    coming = [name for (name,) in await by_owner.fetch("SELECT tablename FROM pg_tables WHERE tablename ~ '^events_2'")]
    assert len(coming) == AHEAD
    for name in coming:
        await by_owner.execute(f"DROP TABLE {name}")
    everybody = [PostgresPartitions(new_engine(), SCHEMA) for _ in range(4)]

    await asyncio.gather(*(months.ensure_partitions() for months in everybody))

    assert set(await by_owner.fetch("SELECT tablename FROM pg_tables WHERE tablename ~ '^events_2'")) == {
        (name,) for name in coming
    }
    assert len(await everybody[0].all()) == AHEAD + 1
    await PostgresEventStore(new_engine(), SCHEMA).append(an_append())
    assert await by_owner.fetchval("SELECT count(*) FROM events_default") == 0


async def test_a_scheduler_makes_the_months_that_come(new_ledger: Any, by_owner: asyncpg.Connection) -> None:
    await by_owner.execute(f"DROP TABLE events_{datetime.now(UTC):%Y_%m}")

    async with new_ledger() as ledger:
        await ledger.scheduler.run_once()

        assert [month.month is not None for month in await ledger.partitions.list()] == [True] * AHEAD + [False]


async def test_an_event_for_which_no_month_was_made_is_kept_and_told_of_until_it_is_settled(
    store: Any, months: PostgresPartitions, archive: Archive, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for began in (None, IN_MARCH, IN_APRIL, IN_MARCH):
        await store.append(an_append(logs.new_stream(began)))
    before = await sql("SELECT * FROM events ORDER BY position")
    with caplog.at_level(logging.ERROR):
        await months.ensure_partitions()
    assert "3 events lie where no month was made for them" in caplog.text
    assert "guestledger partitions settle" in caplog.text
    *_, strays = await months.all()
    assert (strays.month, strays.first_position, strays.last_position) == (None, 1, 3)

    assert await archive.settle() == 3

    assert await sql("SELECT * FROM events ORDER BY position") == before
    caplog.clear()
    await months.ensure_partitions()
    assert not caplog.records
    *attached, strays = await months.all()
    assert (strays.first_position, strays.last_position) == (None, None)
    assert [(month.month, month.first_position, month.last_position) for month in attached[:2]] == [
        (MARCH, 1, 3),
        (APRIL, 2, 2),
    ]


async def test_a_month_that_cannot_be_made_for_events_in_its_place_keeps_no_other_from_being_made(
    months: PostgresPartitions,
    archive: Archive,
    by_owner: asyncpg.Connection,
    store: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where no scheduler ran for months, or a clock is ahead: the alarm has to come even so."""
    made = sorted(
        name for (name,) in await by_owner.fetch("SELECT tablename FROM pg_tables WHERE tablename ~ '^events_2'")
    )
    for name in made[1:]:
        await by_owner.execute(f"DROP TABLE {name}")
    next_month = datetime.strptime(made[1], "events_%Y_%m").replace(tzinfo=UTC)
    await store.append(an_append(logs.new_stream(next_month)))

    with caplog.at_level(logging.ERROR):
        await months.ensure_partitions()

    assert "1 events lie where no month was made for them" in caplog.text
    assert [f"events_{month.month:%Y_%m}" for month in await months.all() if month.month] == [made[0], *made[2:]]
    assert await archive.settle() == 1
    assert [f"events_{month.month:%Y_%m}" for month in await months.all() if month.month] == made


async def test_a_log_from_before_there_were_months_is_the_same_after_the_upgrade(
    empty_database_url: str, read_models: PostgresReadModels
) -> None:
    def to(revision: str) -> Any:
        def upgrade(connection: Connection) -> None:
            alembic = config(SCHEMA)
            alembic.attributes["connection"] = connection
            command.upgrade(alembic, revision)

        return upgrade

    engine = open_engine(empty_database_url, SCHEMA)
    connection = await connect_plainly(empty_database_url)
    try:
        async with engine.begin() as upgrading:
            await upgrading.run_sync(to("0003"))
        await logs.write(empty_database_url, EVENTS, began=IN_MARCH)
        await logs.write(empty_database_url, EVENTS, after=EVENTS - 1)
        await connection.execute("UPDATE checkpoints SET position = 100")
        before = await connection.fetch("SELECT * FROM events ORDER BY position")

        async with engine.begin() as upgrading:
            await upgrading.run_sync(to("head"))

        assert await connection.fetch("SELECT * FROM events ORDER BY position") == before
        assert await connection.fetchval("SELECT count(*) FROM events_2024_03") == EVENTS
        assert await connection.fetchval("SELECT count(*) FROM events_default") == 0
        with pytest.raises(asyncpg.RestrictViolationError, match=r"events_2024_03 is append-only"):
            await connection.execute("DELETE FROM events_2024_03")
        assert await connection.fetchval("SELECT position FROM checkpoints WHERE projection = 'session_metrics'") == -1
    finally:
        await connection.close()
        await engine.dispose()


@pytest.mark.parametrize("change", ["UPDATE {} SET actor = 'other'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_a_month_is_append_only_under_its_own_name_whether_attached_or_not(
    change: str, three_months: None, archive: Archive, by_owner: asyncpg.Connection
) -> None:
    await archive.detach(MARCH)
    await by_owner.execute("SET session_replication_role = replica")

    for name in ("events_2024_03", "events_2024_04", "events_default"):
        with pytest.raises(asyncpg.RestrictViolationError, match=f"{name} is append-only"):
            await by_owner.execute(change.format(name))


# Detached, and back


async def test_without_a_month_the_rest_is_read_verified_and_rebuilt_and_what_was_derived_stays(
    three_months: None, archive: Archive, read_models: PostgresReadModels, store: Any, sql: Any
) -> None:
    before = await derived(sql)
    assert await verified(read_models) == [True] * 3

    contents = await archive.detach(MARCH)

    assert (contents.events, contents.first_position, contents.last_position) == (EVENTS, 0, EVENTS - 1)
    assert await positions(store) == list(range(EVENTS, 3 * EVENTS))
    assert await verified(read_models) == [True] * 3
    assert [await read_models.rebuild(name, lambda _: None) for name in PROJECTIONS] == [0] * 3
    assert await derived(sql) == before
    assert (await store.append(an_append())).position == 3 * EVENTS


async def test_verify_finds_damage_to_what_is_left_and_rebuild_mends_it(
    three_months: None, archive: Archive, read_models: PostgresReadModels, sql: Any
) -> None:
    before = await derived(sql)
    await archive.detach(MARCH)
    damage = "{} WHERE id IN (SELECT stream_id FROM events WHERE position BETWEEN 200 AND 220)"
    await sql(damage.format("UPDATE sessions SET subject_id = 'damaged'"))
    await sql("UPDATE session_metrics SET accepted = accepted + 1 WHERE month = '2024-04-01'")
    await sql("DELETE FROM session_latencies WHERE month > '2024-04-01'")
    await sql(damage.format("DELETE FROM audit_log"))

    assert await verified(read_models) == [False] * 3
    for name in PROJECTIONS:
        await read_models.rebuild(name, lambda _: None)

    assert await verified(read_models) == [True] * 3
    assert await derived(sql) == before


async def test_a_month_that_is_brought_back_makes_the_log_whole_again(
    three_months: None,
    archive: Archive,
    read_models: PostgresReadModels,
    months: PostgresPartitions,
    store: Any,
    sql: Any,
) -> None:
    before = await sql("SELECT * FROM events ORDER BY position")
    detached = await archive.detach(MARCH)
    assert (await months_of(months))[MARCH] is False

    assert await archive.attach(MARCH) == detached

    assert (await months_of(months))[MARCH] is True
    assert await sql("SELECT * FROM events ORDER BY position") == before
    assert [leaf_of(row) for row in before] == [row["leaf_hash"] for row in before]
    assert await verified(read_models) == [True] * 3
    await archive.detach(MARCH)
    await archive.detach(APRIL)
    await archive.attach(MARCH)
    assert await positions(store) == [*range(EVENTS), *range(2 * EVENTS, 3 * EVENTS)]


async def test_a_month_can_be_dropped_and_restored_from_elsewhere(
    three_months: None,
    archive: Archive,
    months: PostgresPartitions,
    store: Any,
    owner: AsyncEngine,
    by_owner: asyncpg.Connection,
) -> None:
    await archive.detach(MARCH)
    await by_owner.execute("CREATE TABLE public.kept AS TABLE events_2024_03; DROP TABLE events_2024_03")
    await by_owner.execute("GRANT SELECT ON public.kept TO PUBLIC")
    [march, *_] = await months.all()
    assert (march.month, march.attached, march.bytes) == (MARCH, False, None)
    with pytest.raises(PartitionRefused, match="not in this database: restore it from where it was kept"):
        await archive.attach(MARCH)
    async with owner.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE guestledger.events_2024_03 (LIKE guestledger.events)")
        await connection.exec_driver_sql("INSERT INTO guestledger.events_2024_03 TABLE public.kept")

    await archive.attach(MARCH)

    assert await positions(store) == list(range(3 * EVENTS))
    with pytest.raises(asyncpg.RestrictViolationError):
        await by_owner.execute("DELETE FROM events_2024_03")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "UPDATE events_2024_03 SET actor = 'other' WHERE position = 7",
            "the event at position 7 .* is not what was rec",
        ),
        ("DELETE FROM events_2024_03 WHERE position = 7", "149 events, and there were 150"),
        ("UPDATE events_2024_03 SET position = 1000 WHERE position = 149", "or others"),
    ],
)
async def test_only_what_was_detached_is_attached_again(
    change: str, told: str, three_months: None, archive: Archive, store: Any, by_owner: asyncpg.Connection
) -> None:
    await archive.detach(MARCH)
    await by_owner.execute(f"ALTER TABLE events_2024_03 DISABLE TRIGGER append_only; {change}")

    with pytest.raises(PartitionRefused, match=told):
        await archive.attach(MARCH)

    assert await positions(store) == list(range(EVENTS, 3 * EVENTS))


async def test_whoever_reads_the_log_for_long_puts_upkeep_off_and_holds_no_append_up_for_long(
    months: PostgresPartitions, by_owner: asyncpg.Connection, connect_by_sql: Any, store: Any
) -> None:
    await by_owner.execute(f"DROP TABLE events_{datetime.now(UTC):%Y_%m}")
    reader = await connect_by_sql()
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM events")

        await asyncio.gather(months.ensure_partitions(), store.append(an_append()))

    assert len(await months.all()) == AHEAD
    assert await positions(store) == [0]


async def test_a_late_session_of_a_detached_month_is_kept_and_goes_where_it_belongs_when_the_month_is_back(
    three_months: None, archive: Archive, months: PostgresPartitions, store: Any, by_owner: asyncpg.Connection
) -> None:
    await archive.detach(MARCH)
    await store.append(an_append(logs.new_stream(IN_MARCH)))
    assert await archive.settle() == 0  # a table in the month's place would keep it out for ever

    await archive.attach(MARCH)

    assert await positions(store) == list(range(3 * EVENTS + 1))
    assert await by_owner.fetchval("SELECT count(*) FROM events_2024_03") == EVENTS + 1
    assert (await months.all())[-1].first_position is None


async def test_a_rebuild_or_verification_that_passed_a_detached_month_begins_again_once_it_is_back(
    three_months: None, archive: Archive, read_models: PostgresReadModels, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await derived(sql)
    await archive.detach(MARCH)
    for module in (poison, rebuild):
        monkeypatch.setattr(module, "BATCH", 64)

    def interrupted(position: int) -> None:
        if position > 2 * EVENTS:
            raise KeyError

    with pytest.raises(KeyError):
        await read_models.rebuild("sessions", interrupted)
    assert await sql("SELECT FROM checkpoints WHERE projection = 'sessions:rebuild'")

    await archive.attach(MARCH)

    assert not await sql("SELECT FROM checkpoints WHERE projection = 'sessions:rebuild'")
    assert await read_models.rebuild("sessions", lambda _: None) == 0
    assert await derived(sql) == before


async def test_a_month_that_is_detached_while_it_is_verified_raises_no_alarm(
    three_months: None, archive: Archive, read_models: PostgresReadModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = rebuild.Rebuild._compare

    async def detached_before(self: rebuild.Rebuild) -> Any:
        await archive.detach(MARCH)
        return await compare(self)

    monkeypatch.setattr(rebuild.Rebuild, "_compare", detached_before)

    assert (await read_models.verify("session_metrics", lambda _: None)).is_same


async def test_an_event_that_was_moved_to_another_position_is_not_what_was_detached(
    archive: Archive, read_models: PostgresReadModels, store: Any, by_owner: asyncpg.Connection
) -> None:
    for began in (IN_MARCH, None, IN_MARCH, None, IN_MARCH, None):
        await store.append(an_append(logs.new_stream(began)))
    await archive.settle()
    await read_models.catch_up()
    await archive.detach(MARCH)
    await by_owner.execute("ALTER TABLE events_2024_03 DISABLE TRIGGER append_only")
    await by_owner.execute("UPDATE events_2024_03 SET position = 3 WHERE position = 2")

    with pytest.raises(PartitionRefused, match="or others"):
        await archive.attach(MARCH)


# What stands against it


async def unread_by_consumer(sql: Any) -> None:
    await sql("INSERT INTO consumers (name, position) VALUES ('warehouse', 10)")


async def unprojected(sql: Any) -> None:
    await sql("UPDATE checkpoints SET position = 148 WHERE projection = 'audit_log'")


async def rebuilding(sql: Any) -> None:
    await sql("INSERT INTO checkpoints (projection, position) VALUES ('sessions:rebuild', 20)")


async def unfinished(sql: Any) -> None:
    await sql(
        "INSERT INTO due_work (stream_id, step, due_at) SELECT stream_id, 'ExpireToken', now() FROM events WHERE position = 3"
    )


async def tampered(sql: Any) -> None:
    await sql("ALTER TABLE events_2024_03 DISABLE TRIGGER append_only")
    await sql("UPDATE events_2024_03 SET actor = 'other' WHERE position = 7")


@pytest.mark.parametrize(
    ("obstacle", "told"),
    [
        (
            unread_by_consumer,
            "the consumer warehouse has not read it yet: .* `guestledger consumers --forget warehouse`",
        ),
        (unprojected, "the projection audit_log has not taken it in yet"),
        (rebuilding, "a rebuild is unfinished: `guestledger projections rebuild sessions` first"),
        (unfinished, "1 sessions that began in it still have work ahead"),
        (tampered, "the event at position 7 in .*events_2024_03 is not what was recorded"),
    ],
)
async def test_a_month_that_is_still_needed_or_was_tampered_with_stays(
    obstacle: Any, told: str, three_months: None, archive: Archive, by_owner: asyncpg.Connection, store: Any
) -> None:
    await obstacle(by_owner.fetch)

    with pytest.raises(PartitionRefused, match=told):
        await archive.detach(MARCH)

    assert await positions(store) == list(range(3 * EVENTS))


async def test_the_month_that_goes_on_stays(three_months: None, archive: Archive) -> None:
    with pytest.raises(PartitionRefused, match="cannot be detached: it is not over yet, or not for a day"):
        await archive.detach(datetime.now(UTC).date().replace(day=1))
    with pytest.raises(PartitionRefused, match="2024-05 is not attached"):
        await archive.detach(date(2024, 5, 1))
    with pytest.raises(PartitionRefused, match="2024-03 is not detached"):
        await archive.attach(MARCH)


async def test_whoever_reads_the_log_for_long_keeps_a_month_and_the_log_goes_on(
    three_months: None, archive: Archive, connect_by_sql: Any, store: Any
) -> None:
    reader = await connect_by_sql()
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM events")

        with pytest.raises(PartitionRefused, match="in one transaction: try again later"):
            await archive.detach(MARCH)

        await store.append(an_append())
    await archive.detach(MARCH)


async def test_a_rebuild_that_begins_after_a_month_was_detached_ends_at_the_live_position(
    three_months: None, archive: Archive, read_models: PostgresReadModels, by_owner: asyncpg.Connection
) -> None:
    """The live rows hold all up to the month's last event, and nothing that is left lies before that."""
    await by_owner.execute(f"UPDATE checkpoints SET position = {EVENTS - 1}")
    await archive.detach(MARCH)
    before = await by_owner.fetch("SELECT * FROM audit_log ORDER BY id")

    async with asyncio.timeout(30):
        assert (await read_models.verify("session_metrics", lambda _: None)).is_same is False

    assert await by_owner.fetch("SELECT * FROM audit_log ORDER BY id") == before


async def test_positions_go_on_behind_a_month_that_holds_the_logs_last_event_and_was_detached(
    three_months: None, archive: Archive, read_models: PostgresReadModels, store: Any
) -> None:
    last = await store.append(an_append(logs.new_stream(IN_MARCH)))
    await archive.settle()
    await read_models.catch_up()
    await archive.detach(MARCH)

    assert await store.head() == last.position
    assert (await store.append(an_append())).position == last.position + 1
    assert await verified(read_models) == [True] * 3


@pytest.mark.parametrize("first", [IN_MARCH, IN_APRIL, None])
async def test_the_versions_of_streams_of_several_months_or_of_none_are_found_in_one_batch(
    first: datetime | None, store: Any, archive: Archive
) -> None:
    ids = [logs.new_stream(first), *map(logs.new_stream, (IN_APRIL, None)), uuid4(), uuid4()]
    for many in (ids, ids[:1], ids[-1:], ids[1:]):
        before = await asyncio.gather(*(store.read_stream(stream_id) for stream_id in many))
        await asyncio.gather(*(store.append(an_append(i, len(events))) for i, events in zip(many, before, strict=True)))
        await archive.settle()

    assert [len(await store.read_stream(stream_id)) for stream_id in ids] == [2, 2, 2, 2, 3]


# What its sessions' users meet


async def test_a_session_of_a_detached_month_is_still_listed_and_told_where_its_history_is(
    ledger: Ledger, archive: Archive, by_owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = samples.request(idempotency_key="the same")
    monkeypatch.setattr(ledger._clock, "new_id", lambda: logs.new_stream(IN_MARCH))
    old = await ledger.open_session(request)
    monkeypatch.undo()
    await ledger.open_session(samples.request())
    await archive.settle()
    await ledger.projections.catch_up()
    await by_owner.execute("DELETE FROM due_work")

    await archive.detach(MARCH)

    assert [entry.id async for entry in ledger.audit(AuditFilter(id=old.id))] == [old.id]
    told = f"session {old.id} began in 2024-03, a month that is detached .*`guestledger partitions attach 2024-03`"
    for wanted in (old.id, str(old.id), old.session_id):
        with pytest.raises(PartitionDetached, match=told):
            await ledger.session(wanted)
    with pytest.raises(PartitionDetached, match=told):
        await ledger.open_session(request)
    await archive.attach(MARCH)
    assert (await ledger.open_session(request)).id == old.id
