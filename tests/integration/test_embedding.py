"""A ledger inside a host application: its database, tables, Alembic, pool and transactions."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from msgspec.structs import replace
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, create_engine, insert, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guestledger.adapters.database import upgrade_database
from guestledger.adapters.postgres.errors import LedgerNotReady, UnfitEngine
from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.pool import lent_engine
from guestledger.adapters.postgres.transactions import short_transaction
from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulated import simulated
from guestledger.adapters.simulator import SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.due import StepName
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import RecordedEvent
from tests import logs
from tests.integration.conftest import NewLogin
from tests.keys import KEY
from tests.postgres import as_administrator
from tests.unit.samples import request

PATIENCE = 60.0  # seconds; only a hang takes longer

# A host may have a table with one of our names, and the table of its own Alembic.
host_tables = MetaData()
orders = Table("orders", host_tables, Column("id", Integer, primary_key=True), Column("note", Text))
events = Table("events", host_tables, Column("id", Integer, primary_key=True), Column("title", Text))


@pytest.fixture
async def host_url(empty_database_url: str, new_login_at: NewLogin) -> str:
    """The URL of a database for the host's user, who may create tables in it."""
    url = await new_login_at(empty_database_url)
    operator = await logs.connect(url)
    await operator.execute(f"GRANT CREATE ON SCHEMA public TO {make_url(url).username}")
    await operator.close()
    return url


@pytest.fixture
async def host(host_url: str) -> AsyncIterator[AsyncEngine]:
    """The host's pool, on a database with its tables and its revision."""
    engine = create_async_engine(host_url, pool_size=4, max_overflow=0, pool_timeout=PATIENCE)
    async with engine.begin() as connection:
        await connection.run_sync(host_tables.create_all)
        await connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO alembic_version VALUES ('host-7')"))
        await connection.execute(insert(events).values(id=1, title="the host's own"))
    yield engine
    await engine.dispose()


async def made_for(host: AsyncEngine, schema: str = "guestledger") -> Settings:
    """Create a ledger in the host's database, as an administrator, and let the host's user run it."""
    plain = Settings(encryption_key=KEY, schema=schema)
    operator = create_async_engine(as_administrator(host.url.render_as_string(hide_password=False)))
    await upgrade_database(plain, engine=operator)
    async with operator.begin() as connection:
        await connection.execute(text(f"GRANT {schema}_runtime TO {host.url.username}"))
    await operator.dispose()
    return plain


@asynccontextmanager
async def ledger_of(
    host: AsyncEngine, schema: str = "guestledger", config: SimulatorConfig = SimulatorConfig()
) -> AsyncIterator[Ledger]:
    plain = await made_for(host, schema)
    async with simulated(plain, config) as settings, connect(settings, engine=host) as ledger:
        yield ledger


async def everything(ledger: Ledger) -> list[RecordedEvent]:
    return [event async for batch in ledger.events.read() for event in batch]


async def test_ledgers_in_one_database_and_pool_keep_separate_logs(host: AsyncEngine) -> None:
    async with ledger_of(host, "north") as north, ledger_of(host, "south") as south:
        opened = await asyncio.gather(*(ledger.open_session(request()) for ledger in (north, north, south) * 5))
        assert {session.status for session in opened} == {"active"}
        assert len([row async for row in north.sessions()]) == 10
        assert len([row async for row in south.sessions()]) == 5
        for ledger in (north, south):
            log = await everything(ledger)
            assert [event.position for event in log] == list(range(len(log))), "each ledger has its own positions"
        streams = [{event.stream_id for event in await everything(ledger)} for ledger in (north, south)]
        assert streams[0].isdisjoint(streams[1])


async def test_ledgers_in_one_database_keep_separate_consumers_and_keys(host: AsyncEngine) -> None:
    async with ledger_of(host, "north") as north, ledger_of(host, "south") as south:
        one = await north.open_session(request(idempotency_key="order-1"))
        other = await south.open_session(request(idempotency_key="order-1"))
        assert one.id != other.id
        seen: set[object] = set()
        came = asyncio.Event()

        async def handle(found: Sequence[RecordedEvent]) -> None:
            seen.update(event.stream_id for event in found)
            came.set()

        task = asyncio.create_task(north.events.consume("queue", handle))
        async with asyncio.timeout(PATIENCE):
            await came.wait()
        assert await south.events.consumers() == []
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert seen == {one.id}


async def test_the_hosts_tables_and_alembic_version_stay_unchanged(host: AsyncEngine) -> None:
    async with ledger_of(host) as ledger:
        await ledger.open_session(request())
    async with host.connect() as connection:
        assert (await connection.execute(text("SELECT version_num FROM public.alembic_version"))).scalars().all() == [
            "host-7"
        ]
        assert (await connection.execute(select(events.c.title))).scalars().all() == ["the host's own"]
        tables = await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        assert set(tables.scalars()) == {"orders", "events", "alembic_version"}


async def test_the_hosts_alembic_sees_no_difference(host: AsyncEngine) -> None:
    await made_for(host)

    def differences(connection: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), host_tables)

    async with host.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_connecting_to_a_missing_ledger_fails_and_creates_nothing(host: AsyncEngine) -> None:
    with pytest.raises(LedgerNotReady, match="there is no ledger in schema 'guestledger'"):
        async with connect(Settings(encryption_key=KEY), engine=host):
            pass
    async with host.connect() as connection:
        assert not (await connection.execute(text("SELECT 1 FROM pg_namespace WHERE nspname = 'guestledger'"))).all()


async def test_the_hosts_pool_is_used_and_not_disposed(host: AsyncEngine) -> None:
    pool = host.pool
    async with ledger_of(host) as ledger:
        assert (await ledger.open_session(request())).status == "active"
    assert host.pool is pool
    assert pool.checkedin() > 0  # type: ignore[attr-defined]
    assert pool.checkedout() == 0  # type: ignore[attr-defined]
    async with host.connect() as connection:
        assert (await connection.execute(select(events.c.id))).scalar() == 1


async def test_a_host_engine_needs_no_database_url_and_starts_no_embedded_server(
    host: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("guestledger.adapters.database.start_embedded", refuse)
    async with ledger_of(host) as ledger:
        assert await ledger.scheduler.unfinished() == 0


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE", "REPEATABLE READ"])
async def test_a_ledger_works_at_any_isolation_level_of_the_hosts_engine(host_url: str, level: Any) -> None:
    engine = create_async_engine(host_url, isolation_level=level, pool_size=4, max_overflow=0)
    async with ledger_of(engine) as ledger:
        opened = await asyncio.gather(*(ledger.open_session(request()) for _ in range(10)))
        assert {session.status for session in opened} == {"active"}
        assert len([entry async for entry in ledger.audit()]) == 10
        assert (await ledger.metrics()).tracked == 10
    async with engine.connect() as connection:
        found: Any = (await connection.get_raw_connection()).dbapi_connection
        assert found.isolation_level.replace("_", " ").upper() == level
    await engine.dispose()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_ledger_on_the_hosts_pool_tolerates_a_stricter_database_isolation(
    host_url: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch = await logs.connect(host_url)
    database = make_url(host_url).database
    await watch.execute(f"ALTER DATABASE {database} SET default_transaction_isolation = '{level}'")
    await watch.close()
    engine = create_async_engine(host_url, pool_size=8, max_overflow=0)
    async with ledger_of(engine) as one, ledger_of(engine) as other:
        opened = await asyncio.gather(*(ledger.open_session(request()) for ledger in (one, other) * 20))
        assert {session.status for session in opened} == {"active"}
        caught_up = await asyncio.gather(*(ledger.projections.catch_up() for ledger in (one, other) * 10))
        assert len(caught_up) == 20
        assert (await one.metrics()).tracked == 40
    assert caplog.text == ""
    await _contend(lent_engine(engine, "guestledger"))
    await engine.dispose()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_pool_of_our_own_tolerates_a_stricter_database_isolation(
    ledger_url: str, new_engine: Any, sql: Any, level: str
) -> None:
    await sql(f"ALTER DATABASE {make_url(ledger_url).database} SET default_transaction_isolation = '{level}'")
    await _contend(new_engine())


async def _contend(engine: AsyncEngine) -> None:
    """Claim, renew and release the same rows in many workers. At a stricter level most statements would fail."""
    limiter = PostgresRateLimiter(engine, "guestledger", LimiterPolicy())
    work = PostgresDueSteps(engine, "guestledger", limiter)
    async with short_transaction(engine) as driver:
        await driver.execute(
            "INSERT INTO guestledger.due_steps SELECT gen_random_uuid(), 'create_session', now() FROM generate_series(1, 5)"
        )

    async def worker() -> None:
        lease = Lease(owner=uuid4(), ms=60_000)
        for _ in range(20):
            claims = (await work.claim(lease, {StepName.CREATE_SESSION: "host sessions"}, 5)).claims
            ids = [claim.stream_id for claim in claims]
            await work.heartbeat(lease, ids)
            for stream_id in ids:
                await work.release(lease.owner, stream_id, 0)

    await asyncio.gather(*(worker() for _ in range(6)))


async def test_a_rollback_of_the_host_keeps_the_ledgers_events(host: AsyncEngine) -> None:
    async with ledger_of(host) as ledger:
        async with host.connect() as connection, connection.begin() as transaction:
            await connection.execute(insert(orders).values(id=1, note="rolled back"))
            session = await ledger.open_session(request())
            await transaction.rollback()
        assert (await ledger.session(session.id)).status == "active"
        async with host.connect() as connection:
            assert (await connection.execute(select(orders))).all() == []


async def test_no_connection_is_held_while_waiting_for_the_provider_or_host_code(host_url: str) -> None:
    """The pool has one connection: if the ledger held it during such a wait, the host would be locked out."""
    engine = create_async_engine(host_url, pool_size=1, max_overflow=0, pool_timeout=PATIENCE)

    async def host_works() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1"))

    handled = asyncio.Event()

    async def handle(_found: Sequence[RecordedEvent]) -> None:
        await host_works()
        handled.set()

    async with ledger_of(engine, config=SimulatorConfig(slow_ms=300)) as ledger, asyncio.timeout(PATIENCE):
        opening = asyncio.create_task(ledger.open_session(request()))
        await asyncio.sleep(0.1)  # the provider is slow
        assert not opening.done()
        await host_works()
        await opening
        consuming = asyncio.create_task(ledger.events.consume("queue", handle))
        await handled.wait()
        async for _ in ledger.events.read():
            await host_works()
        async for _ in ledger.events.tail():
            await host_works()
            break
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    await engine.dispose()


async def test_no_transaction_stays_open_on_the_hosts_connections(host: AsyncEngine, empty_database_url: str) -> None:
    watch = await logs.connect(empty_database_url)
    async with ledger_of(host) as ledger:
        for _ in range(3):
            await ledger.open_session(request())
        await ledger.metrics()
        ledger.scheduler.stop()
        async with asyncio.timeout(PATIENCE):
            while states := await watch.fetch(
                "SELECT state, query FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
            ):
                assert not [query for state, query in states if "aborted" in state]
                await asyncio.sleep(0.01)
    await watch.close()


async def test_an_unusable_engine_is_rejected_with_advice() -> None:
    with pytest.raises(UnfitEngine, match=r"must be a sqlalchemy.ext.asyncio.AsyncEngine, not a Engine"):
        lent_engine(create_engine("sqlite://"), "guestledger")  # type: ignore[arg-type]
    async with connect_refused("psycopg") as message:
        assert "must use asyncpg, not psycopg" in message
        assert 'create_async_engine("postgresql+asyncpg://' in message


@asynccontextmanager
async def connect_refused(driver: str) -> AsyncIterator[str]:
    engine = create_async_engine("postgresql+asyncpg://host/database")
    engine.sync_engine.dialect = SimpleNamespace(name="postgresql", driver=driver)  # type: ignore[assignment]
    with pytest.raises(UnfitEngine) as caught:
        async with connect(replace(Settings(encryption_key=KEY), schema="any"), engine=engine):
            pass
    yield str(caught.value)
