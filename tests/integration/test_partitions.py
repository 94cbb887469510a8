"""The log is partitioned by month: partitions are created ahead, detached and attached."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.archive import Archive
from guestledger.adapters.postgres.admin.partitions import PostgresPartitions
from guestledger.adapters.postgres.errors import PartitionBlocked, PartitionProblem
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.log.verification import LogVerifier
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections import poison, rebuild
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.engine.domain.errors import PartitionDetached
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.recorded import month_of
from guestledger.engine.projections.audit import AuditFilter
from tests import logs
from tests.integration.appends import an_append, leaf_of
from tests.integration.conftest import AT_ONCE, NewLedger
from tests.integration.plain_sql import SCHEMA, connect_plainly
from tests.postgres import as_administrator, new_login
from tests.unit import samples

MARCH, APRIL = date(2024, 3, 1), date(2024, 4, 1)
IN_MARCH, IN_APRIL = datetime(2024, 3, 31, 23, 59, 59, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
AHEAD = 4
"""How many partitions there are at any time: this month's and the next three."""
SESSIONS = 30
EVENTS = 5 * SESSIONS


@pytest.fixture
def partitions(new_engine: Any) -> PostgresPartitions:
    return PostgresPartitions(new_engine(), SCHEMA)


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A user who may change the tables and did not create them."""
    async with new_login(as_administrator(database_url), "IN ROLE guestledger_owner") as url:
        engine = open_engine(url, SCHEMA)
        yield engine
        await engine.dispose()


@pytest.fixture
def archive(owner: AsyncEngine) -> Archive:
    return Archive(owner, SCHEMA)


@pytest.fixture
async def by_owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection by plain SQL, as the administrator."""
    connection = await connect_plainly(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def three_partitions(database_url: str, archive: Archive, read_models: PostgresReadModels) -> None:
    """Sessions that began in March 2024, in April 2024 and now, all projected."""
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


async def attached_of(partitions: PostgresPartitions) -> dict[date | None, bool]:
    return {partition.month: partition.attached for partition in await partitions.all()}


async def refused(changing: Awaitable[Any], problem: PartitionProblem, detail: str | None = None) -> None:
    with pytest.raises(PartitionBlocked) as raised:
        await changing
    found = dict(raised.value.problems)
    assert problem in found
    assert detail in (None, found[problem])


# Where events are


@pytest.mark.parametrize(
    ("began", "month"),
    [(IN_MARCH, "2024_03"), (IN_APRIL, "2024_04"), (None, None)],
    ids=["March", "April", "now"],
)
async def test_a_stream_is_in_the_partition_of_its_month(
    began: datetime | None, month: str | None, store: Any, archive: Archive, by_owner: asyncpg.Connection
) -> None:
    stream_id = logs.new_stream(began)
    month = month or f"{month_of(stream_id):%Y_%m}"  # the month may have changed since the tests were collected
    await store.append(an_append(stream_id))
    await archive.settle()
    await store.append(an_append(stream_id, expected=1))

    found = await by_owner.fetch("SELECT DISTINCT tableoid::regclass::text FROM events")

    assert [name for (name,) in found] == [f"events_{month}"]


async def test_coming_partitions_are_created_once(
    new_engine: Any, store: PostgresEventStore, by_owner: asyncpg.Connection
) -> None:
    coming = [name for (name,) in await by_owner.fetch("SELECT tablename FROM pg_tables WHERE tablename ~ '^events_2'")]
    assert len(coming) == AHEAD
    for name in coming:
        await by_owner.execute(f"DROP TABLE {name}")
    everybody = [PostgresPartitions(new_engine(), SCHEMA) for _ in range(4)]

    await asyncio.gather(*(one.ensure_partitions() for one in everybody))

    assert set(await by_owner.fetch("SELECT tablename FROM pg_tables WHERE tablename ~ '^events_2'")) == {
        (name,) for name in coming
    }
    assert len(await everybody[0].all()) == AHEAD + 1
    await store.append(an_append())
    assert await by_owner.fetchval("SELECT count(*) FROM events_default") == 0


async def test_a_scheduler_creates_the_coming_partitions(new_ledger: Any, by_owner: asyncpg.Connection) -> None:
    await by_owner.execute(f"DROP TABLE events_{datetime.now(UTC):%Y_%m}")

    async with new_ledger() as ledger:
        await ledger.scheduler.run_once()

        assert [one.month is not None for one in await ledger.partitions.list()] == [True] * AHEAD + [False]


async def test_an_unpartitioned_event_is_kept_and_reported_until_settled(
    store: Any, partitions: PostgresPartitions, archive: Archive, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for began in (None, IN_MARCH, IN_APRIL, IN_MARCH):
        await store.append(an_append(logs.new_stream(began)))
    before = await sql("SELECT * FROM events ORDER BY position")
    with caplog.at_level(logging.ERROR):
        await partitions.ensure_partitions()
    assert "3 events are in the default partition" in caplog.text
    *_, default = await partitions.all()
    assert (default.month, default.first_position, default.last_position) == (None, 1, 3)

    assert await archive.settle() == 3

    assert await sql("SELECT * FROM events ORDER BY position") == before
    caplog.clear()
    await partitions.ensure_partitions()
    assert not caplog.records
    *attached, default = await partitions.all()
    assert (default.first_position, default.last_position) == (None, None)
    assert [(one.month, one.first_position, one.last_position) for one in attached[:2]] == [
        (MARCH, 1, 3),
        (APRIL, 2, 2),
    ]


async def test_a_partition_with_unpartitioned_events_does_not_block_others(
    partitions: PostgresPartitions,
    archive: Archive,
    by_owner: asyncpg.Connection,
    store: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As after months without a scheduler, or with a clock that is ahead. The error is logged all the same."""
    made = sorted(
        name for (name,) in await by_owner.fetch("SELECT tablename FROM pg_tables WHERE tablename ~ '^events_2'")
    )
    for name in made[1:]:
        await by_owner.execute(f"DROP TABLE {name}")
    next_month = datetime.strptime(made[1], "events_%Y_%m").replace(tzinfo=UTC)
    await store.append(an_append(logs.new_stream(next_month)))

    with caplog.at_level(logging.ERROR):
        await partitions.ensure_partitions()

    assert "1 events are in the default partition" in caplog.text
    assert [f"events_{one.month:%Y_%m}" for one in await partitions.all() if one.month] == [made[0], *made[2:]]
    assert await archive.settle() == 1
    assert [f"events_{one.month:%Y_%m}" for one in await partitions.all() if one.month] == made


@pytest.mark.parametrize("change", ["UPDATE {} SET actor = 'other'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_a_partition_is_append_only_attached_or_not(
    change: str, three_partitions: None, archive: Archive, by_owner: asyncpg.Connection
) -> None:
    await archive.detach(MARCH)
    await by_owner.execute("SET session_replication_role = replica")

    for name in ("events_2024_03", "events_2024_04", "events_default"):
        with pytest.raises(asyncpg.RestrictViolationError, match=f"{name} is append-only"):
            await by_owner.execute(change.format(name))


# Detached, and back


async def test_a_detached_partition_leaves_reads_and_projections_intact(
    three_partitions: None, archive: Archive, read_models: PostgresReadModels, store: Any, sql: Any
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


async def test_with_a_partition_detached_verify_and_rebuild_still_work(
    three_partitions: None, archive: Archive, read_models: PostgresReadModels, sql: Any
) -> None:
    before = await derived(sql)
    await archive.detach(MARCH)
    damage = "{} WHERE id IN (SELECT stream_id FROM events WHERE position BETWEEN 200 AND 220)"
    await sql(damage.format("UPDATE sessions SET channel_id = 'damaged'"))
    await sql("UPDATE session_metrics SET accepted = accepted + 1 WHERE month = '2024-04-01'")
    await sql("DELETE FROM session_latencies WHERE month > '2024-04-01'")
    await sql(damage.format("DELETE FROM audit_log"))

    assert await verified(read_models) == [False] * 3
    for name in PROJECTIONS:
        await read_models.rebuild(name, lambda _: None)

    assert await verified(read_models) == [True] * 3
    assert await derived(sql) == before


async def test_a_verification_counts_what_is_detached_and_misses_what_is_not(
    three_partitions: None, archive: Archive, new_engine: Any, by_owner: asyncpg.Connection
) -> None:
    verifier = LogVerifier(new_engine(), SCHEMA)
    await archive.detach(MARCH)

    found = await verifier.verify(None, None, lambda _: None)
    assert (found.is_intact, found.events, found.detached) == (True, 2 * EVENTS, EVENTS)

    # Within the span of the detached partition, only the number shows it.
    await by_owner.execute("UPDATE detached_partitions SET events = events - 1")
    found = await verifier.verify(None, None, lambda _: None)
    assert (found.is_intact, found.missing, found.unaccounted) == (False, (), 1)


async def test_a_month_that_is_detached_during_a_verification_is_not_missing(
    three_partitions: None, archive: Archive, new_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = LogVerifier(new_engine(), SCHEMA)
    whole = verifier._read

    async def read(*given: Any) -> Any:
        monkeypatch.undo()
        await archive.detach(MARCH)
        return await whole(*given)

    monkeypatch.setattr(verifier, "_read", read)
    found = await verifier.verify(None, None, lambda _: None)
    assert (found.is_intact, found.events, found.detached) == (True, 2 * EVENTS, EVENTS)


async def test_attaching_a_partition_restores_the_log(
    three_partitions: None,
    archive: Archive,
    read_models: PostgresReadModels,
    partitions: PostgresPartitions,
    store: Any,
    sql: Any,
) -> None:
    before = await sql("SELECT * FROM events ORDER BY position")
    detached = await archive.detach(MARCH)
    assert (await attached_of(partitions))[MARCH] is False

    assert await archive.attach(MARCH) == detached

    assert (await attached_of(partitions))[MARCH] is True
    assert await sql("SELECT * FROM events ORDER BY position") == before
    assert [leaf_of(row) for row in before] == [row["leaf_hash"] for row in before]
    assert await verified(read_models) == [True] * 3
    await archive.detach(MARCH)
    await archive.detach(APRIL)
    await archive.attach(MARCH)
    assert await positions(store) == [*range(EVENTS), *range(2 * EVENTS, 3 * EVENTS)]


async def test_a_detached_partition_can_be_dropped_and_restored(
    three_partitions: None,
    archive: Archive,
    partitions: PostgresPartitions,
    store: Any,
    owner: AsyncEngine,
    by_owner: asyncpg.Connection,
) -> None:
    await archive.detach(MARCH)
    await by_owner.execute("CREATE TABLE public.kept AS TABLE events_2024_03; DROP TABLE events_2024_03")
    await by_owner.execute("GRANT SELECT ON public.kept TO PUBLIC")
    [march, *_] = await partitions.all()
    assert (march.month, march.attached, march.bytes) == (MARCH, False, None)
    await refused(archive.attach(MARCH), PartitionProblem.TABLE_MISSING)
    async with owner.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE guestledger.events_2024_03 (LIKE guestledger.events)")
        await connection.exec_driver_sql("INSERT INTO guestledger.events_2024_03 TABLE public.kept")

    await archive.attach(MARCH)

    assert await positions(store) == list(range(3 * EVENTS))
    with pytest.raises(asyncpg.RestrictViolationError):
        await by_owner.execute("DELETE FROM events_2024_03")


@pytest.mark.parametrize(
    ("change", "problem", "detail"),
    [
        ("UPDATE events_2024_03 SET actor = 'other' WHERE position = 7", PartitionProblem.EVENT_CHANGED, "7"),
        (
            "DELETE FROM events_2024_03 WHERE position = 7",
            PartitionProblem.CONTENTS_DIFFER,
            "149 events; 150 were detached",
        ),
        (
            "UPDATE events_2024_03 SET position = 1000 WHERE position = 149",
            PartitionProblem.CONTENTS_DIFFER,
            "150 events; 150 were detached",
        ),
    ],
)
async def test_only_what_was_detached_can_be_attached(
    change: str,
    problem: PartitionProblem,
    detail: str,
    three_partitions: None,
    archive: Archive,
    store: Any,
    by_owner: asyncpg.Connection,
) -> None:
    await archive.detach(MARCH)
    await by_owner.execute(f"ALTER TABLE events_2024_03 DISABLE TRIGGER append_only; {change}")

    await refused(archive.attach(MARCH), problem, detail)

    assert await positions(store) == list(range(EVENTS, 3 * EVENTS))


async def test_a_long_reader_delays_new_partitions_and_not_appends(
    partitions: PostgresPartitions, by_owner: asyncpg.Connection, connect_by_sql: Any, store: Any
) -> None:
    await by_owner.execute(f"DROP TABLE events_{datetime.now(UTC):%Y_%m}")
    reader = await connect_by_sql()
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM events")

        await asyncio.gather(partitions.ensure_partitions(), store.append(an_append()))

    assert len(await partitions.all()) == AHEAD
    assert await positions(store) == [0]


async def test_a_late_event_of_a_detached_partition_moves_there_on_attach(
    three_partitions: None, archive: Archive, partitions: PostgresPartitions, store: Any, by_owner: asyncpg.Connection
) -> None:
    await archive.detach(MARCH)
    await store.append(an_append(logs.new_stream(IN_MARCH)))
    assert await archive.settle() == 0  # a table in its place would prevent attaching it

    await archive.attach(MARCH)

    assert await positions(store) == list(range(3 * EVENTS + 1))
    assert await by_owner.fetchval("SELECT count(*) FROM events_2024_03") == EVENTS + 1
    assert (await partitions.all())[-1].first_position is None


async def test_attaching_a_partition_restarts_rebuilds_that_passed_it(
    three_partitions: None, archive: Archive, read_models: PostgresReadModels, sql: Any, monkeypatch: pytest.MonkeyPatch
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


async def test_detaching_during_a_verification_raises_no_alarm(
    three_partitions: None, archive: Archive, read_models: PostgresReadModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = rebuild.Rebuild._compare

    async def detached_before(self: rebuild.Rebuild) -> Any:
        await archive.detach(MARCH)
        return await compare(self)

    monkeypatch.setattr(rebuild.Rebuild, "_compare", detached_before)

    assert (await read_models.verify("session_metrics", lambda _: None)).is_same


async def test_an_event_at_another_position_prevents_attaching(
    archive: Archive, read_models: PostgresReadModels, store: Any, by_owner: asyncpg.Connection
) -> None:
    for began in (IN_MARCH, None, IN_MARCH, None, IN_MARCH, None):
        await store.append(an_append(logs.new_stream(began)))
    await archive.settle()
    await read_models.catch_up()
    await archive.detach(MARCH)
    await by_owner.execute("ALTER TABLE events_2024_03 DISABLE TRIGGER append_only")
    await by_owner.execute("UPDATE events_2024_03 SET position = 3 WHERE position = 2")

    await refused(archive.attach(MARCH), PartitionProblem.CONTENTS_DIFFER)


# What prevents detaching


async def unread_by_consumer(sql: Any) -> None:
    await sql("INSERT INTO consumers (name, position) VALUES ('warehouse', 10)")


async def unprojected(sql: Any) -> None:
    await sql("UPDATE checkpoints SET position = 148 WHERE projection = 'audit_log'")


async def rebuilding(sql: Any) -> None:
    await sql("INSERT INTO checkpoints (projection, position) VALUES ('sessions:rebuild', 20)")


async def unfinished(sql: Any) -> None:
    await sql(
        "INSERT INTO due_steps (stream_id, step, due_at) SELECT stream_id, 'expire_token', now() FROM events WHERE position = 3"
    )


async def tampered(sql: Any) -> None:
    await sql("ALTER TABLE events_2024_03 DISABLE TRIGGER append_only")
    await sql("UPDATE events_2024_03 SET actor = 'other' WHERE position = 7")


@pytest.mark.parametrize(
    ("obstacle", "problem", "detail"),
    [
        (unread_by_consumer, PartitionProblem.NOT_CONSUMED, "warehouse"),
        (unprojected, PartitionProblem.NOT_PROJECTED, "audit_log"),
        (rebuilding, PartitionProblem.REBUILD_UNFINISHED, "sessions"),
        (unfinished, PartitionProblem.WORK_LEFT, "1"),
        (tampered, PartitionProblem.EVENT_CHANGED, "7"),
    ],
)
async def test_a_partition_in_need_or_tampered_with_cannot_be_detached(
    obstacle: Any,
    problem: PartitionProblem,
    detail: str,
    three_partitions: None,
    archive: Archive,
    by_owner: asyncpg.Connection,
    store: Any,
) -> None:
    await obstacle(by_owner.fetch)

    await refused(archive.detach(MARCH), problem, detail)

    assert await positions(store) == list(range(3 * EVENTS))


async def test_the_current_partition_cannot_be_detached(three_partitions: None, archive: Archive) -> None:
    await refused(archive.detach(datetime.now(UTC).date().replace(day=1)), PartitionProblem.NOT_OVER)
    await refused(archive.detach(date(2024, 5, 1)), PartitionProblem.NOT_ATTACHED)
    await refused(archive.attach(MARCH), PartitionProblem.NOT_DETACHED)


async def test_a_long_reader_prevents_detaching_and_not_appends(
    three_partitions: None, archive: Archive, connect_by_sql: Any, store: Any
) -> None:
    reader = await connect_by_sql()
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM events")

        await refused(archive.detach(MARCH), PartitionProblem.IN_USE)

        await store.append(an_append())
    await archive.detach(MARCH)


async def test_a_rebuild_after_detaching_ends_at_the_live_position(
    three_partitions: None, archive: Archive, read_models: PostgresReadModels, by_owner: asyncpg.Connection
) -> None:
    """The live rows end at the partition's last event, and no other event is before it."""
    await by_owner.execute(f"UPDATE checkpoints SET position = {EVENTS - 1}")
    await archive.detach(MARCH)
    before = await by_owner.fetch("SELECT * FROM audit_log ORDER BY id")

    async with asyncio.timeout(30):
        assert (await read_models.verify("session_metrics", lambda _: None)).is_same is False

    assert await by_owner.fetch("SELECT * FROM audit_log ORDER BY id") == before


async def test_positions_continue_after_the_last_events_partition_is_detached(
    three_partitions: None, archive: Archive, read_models: PostgresReadModels, store: Any
) -> None:
    last = await store.append(an_append(logs.new_stream(IN_MARCH)))
    await archive.settle()
    await read_models.catch_up()
    await archive.detach(MARCH)

    assert await store.head() == last.position
    assert (await store.append(an_append())).position == last.position + 1
    assert await verified(read_models) == [True] * 3


@pytest.mark.parametrize("first", [IN_MARCH, IN_APRIL, None])
async def test_one_batch_appends_to_streams_of_several_partitions(
    first: datetime | None, store: Any, archive: Archive
) -> None:
    ids = [logs.new_stream(first), *map(logs.new_stream, (IN_APRIL, None)), uuid4(), uuid4()]
    for many in (ids, ids[:1], ids[-1:], ids[1:]):
        before = await asyncio.gather(*(store.read_stream(stream_id) for stream_id in many))
        await asyncio.gather(*(store.append(an_append(i, len(events))) for i, events in zip(many, before, strict=True)))
        await archive.settle()

    assert [len(await store.read_stream(stream_id)) for stream_id in ids] == [2, 2, 2, 2, 3]


# Its sessions


async def test_a_session_of_a_detached_partition_is_listed_and_reported(
    ledger: Ledger, archive: Archive, by_owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = samples.request(idempotency_key="the same")
    monkeypatch.setattr(ledger._adapters.clock, "new_id", lambda: logs.new_stream(IN_MARCH))
    old = await ledger.open_session(request)
    monkeypatch.undo()
    await ledger.open_session(samples.request())
    await archive.settle()
    await ledger.projections.catch_up()
    await by_owner.execute("DELETE FROM due_steps")

    await archive.detach(MARCH)

    assert [entry.id async for entry in ledger.audit(AuditFilter(session=old.session_id))] == [old.id]
    for wanted in (old.id, str(old.id), old.session_id):
        with pytest.raises(PartitionDetached, match=str(old.id)):
            await ledger.session(wanted)
    with pytest.raises(PartitionDetached, match=str(old.id)):
        await ledger.open_session(request)
    await archive.attach(MARCH)
    assert (await ledger.open_session(request)).id == old.id


async def test_what_is_detached_is_erased_only_after_it_is_attached(
    new_ledger: NewLedger, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger() as keeping:
        monkeypatch.setattr(keeping._adapters.clock, "new_id", lambda: logs.new_stream(IN_MARCH))
        await keeping.open_session(samples.request(consent=samples.consent(data_processing=False)))
        await archive.settle()
        await keeping.projections.catch_up()
    await archive.detach(MARCH)

    async with new_ledger(policy=replace(AT_ONCE, retention_days=0)) as ledger:
        assert await ledger.scheduler.run_until_idle() == {}
        found = await ledger.retention.status()
        assert (found.kept, found.due, found.detached) == (1, 0, 1)

        await archive.attach(MARCH)
        assert (await ledger.retention.status()).due == 1
        assert await ledger.scheduler.run_until_idle() == {"ContactErased": 1}
