"""Functions and operators of a stranger in a schema that anybody may write to: no statement of the ledger calls one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guestledger.adapters.database import open_archive, upgrade_database
from guestledger.adapters.postgres.errors import LedgerNotReady, LedgerProblem
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulated import simulated
from guestledger.adapters.simulator import SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.session_finder import FindFilter
from guestledger.engine.projections.audit import AuditFilter
from guestledger.engine.projections.metrics import MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter
from tests import logs, postgres
from tests.integration import planted
from tests.integration.conftest import NewLogin
from tests.keys import KEY
from tests.unit.samples import request

EARLY = datetime(2024, 3, 5, tzinfo=UTC)
HOSTS_PATH = "public, pg_catalog"
PATIENCE = 60.0  # seconds; only a hang takes longer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def planted_template(postgres_server: str) -> AsyncIterator[str]:
    """The name of a database without a ledger, whose schema `public` a stranger has filled."""
    async with postgres.new_login(postgres_server, "") as stranger, postgres.new_database(postgres_server) as url:
        administrator = await logs.connect(url)
        await administrator.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        database, plain = make_url(url).database, make_url(stranger).set(drivername="postgresql")
        connection = await asyncpg.connect(plain.set(database=database).render_as_string(hide_password=False))
        await planted.plant(connection)
        await connection.close()
        await administrator.execute(f"REASSIGN OWNED BY {plain.username} TO CURRENT_USER")
        await administrator.close()
        yield str(database)


@pytest.fixture
async def planted_url(postgres_server: str, planted_template: str) -> AsyncIterator[str]:
    async with postgres.new_database(postgres_server, planted_template) as url:
        yield url


@pytest.fixture
async def watch(planted_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await logs.connect(planted_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT format('%I', name 'x')",
        "SELECT unnest(ARRAY[gen_random_uuid()])",
        "SELECT 1 * interval '1 ms'",
        "SELECT count(DISTINCT gen_random_uuid())",
        "SELECT 'a'::text = 'b'::varchar",
    ],
)
async def test_planted_functions_run_without_a_fixed_search_path(statement: str, watch: asyncpg.Connection) -> None:
    with pytest.raises((asyncpg.RaiseError, asyncpg.WrongObjectTypeError)):
        await watch.fetch(statement)


async def test_an_upgrade_runs_nothing_that_a_stranger_planted(planted_url: str, watch: asyncpg.Connection) -> None:
    for _ in range(2):
        await upgrade_database(Settings(migration_url=planted_url))
    async with made_engine(planted_url) as engine:
        await upgrade_database(Settings(schema="lent"), engine=engine)
    assert not await planted.sprung(watch)


async def test_a_ledger_runs_nothing_that_a_stranger_planted(
    planted_url: str, watch: asyncpg.Connection, new_login_at: NewLogin
) -> None:
    await upgrade_database(Settings(migration_url=planted_url))
    url = await new_login_at(planted_url, "IN ROLE guestledger_runtime")
    config = SimulatorConfig(throttle_share=0.3, retry_after_s=0)
    async with (
        simulated(Settings(encryption_key=KEY, database_url=url), config) as settings,
        connect(settings, scheduler=False) as ledger,
        asyncio.timeout(PATIENCE),
    ):
        await use(ledger)
    await archive(planted_url)
    assert not await planted.sprung(watch)


async def test_a_lent_engine_runs_nothing_planted_and_keeps_its_search_path(
    planted_url: str, watch: asyncpg.Connection, new_login_at: NewLogin
) -> None:
    await upgrade_database(Settings(migration_url=planted_url))
    url = await new_login_at(planted_url, "IN ROLE guestledger_runtime")
    await watch.execute(f"ALTER ROLE {make_url(url).username} SET search_path = {HOSTS_PATH}")
    async with made_engine(url) as engine, simulated(Settings(encryption_key=KEY), SimulatorConfig()) as settings:
        async with connect(settings, engine=engine, scheduler=False) as ledger:
            async with asyncio.timeout(PATIENCE):
                await use(ledger)
            assert await search_paths(engine) == {HOSTS_PATH}
        assert await search_paths(engine) == {HOSTS_PATH}
    assert not await planted.sprung(watch)


async def test_own_connections_have_the_search_path_outside_transactions(database_url: str) -> None:
    engine = open_engine(database_url, "guestledger")
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        assert await driver.fetchval("SHOW search_path") == "pg_catalog, pg_temp"
    await engine.dispose()


async def test_every_function_of_a_ledger_has_the_search_path(database_url: str) -> None:
    connection = await logs.connect(database_url)
    found = await connection.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'guestledger'::regnamespace"
    )
    await connection.close()
    assert found
    for name, settings in found:
        assert "search_path=pg_catalog, pg_temp" in settings, name


FOREIGN = {
    "a table": "CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY)",
    "a view": "CREATE VIEW public.head AS SELECT 1 AS id",
    "an overload": "CREATE FUNCTION public.first_id(text) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
}


@pytest.mark.parametrize("made", FOREIGN.values(), ids=FOREIGN.keys())
async def test_an_upgrade_refuses_a_strangers_objects_in_its_schema(
    made: str, empty_database_url: str, new_login_at: NewLogin
) -> None:
    administrator = await logs.connect(empty_database_url)
    await administrator.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    stranger = await new_login_at(empty_database_url)
    connection = await asyncpg.connect(stranger.replace("+asyncpg", ""))
    await connection.execute(made)
    await connection.close()

    with pytest.raises(LedgerNotReady, match="which belongs to test_") as raised:
        await upgrade_database(Settings(migration_url=empty_database_url, schema="public"))

    assert raised.value.problem is LedgerProblem.FOREIGN
    assert not await administrator.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'due_steps'")
    await administrator.close()


@asynccontextmanager
async def made_engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, pool_size=4, max_overflow=0)
    yield engine
    await engine.dispose()


async def search_paths(engine: AsyncEngine) -> set[str]:
    """The search paths of the host's connections, each in a transaction of the host's."""
    found: set[str] = set()
    for _ in range(4):
        async with engine.connect() as connection:
            found.add(str((await connection.execute(text("SHOW search_path"))).scalar_one()))
    return found


async def use(ledger: Ledger) -> None:
    """Call everything that sends a statement."""
    opened = [await ledger.open_session(request(idempotency_key=f"order-{number}")) for number in range(5)]
    await ledger.open_session(request(idempotency_key="order-0"))
    await ledger.accept(request())
    await ledger.scheduler.run_until_idle()
    now = datetime.now(UTC)
    audits = AuditFilter(channel_id="ch_1", since=EARLY, until=now, status="verified", session=opened[0].id)
    assert len([entry async for entry in ledger.audit(audits)]) <= 1
    wanted = SessionFilter(
        channel_id="ch_1", statuses=("active",), ids=(opened[0].id,), expires_after=EARLY, expires_until=now
    )
    assert len([row async for row in ledger.sessions(wanted)]) <= 1
    assert len([row async for row in ledger.sessions()]) == 6
    await ledger.metrics(MetricsFilter(channel_id="ch_1", since=EARLY, until=now))
    for name in PROJECTIONS:
        assert (await ledger.projections.verify(name)).is_same
        assert await ledger.projections.rebuild(name) == 0
    assert [status.lag_events for status in await ledger.projections.status()] == [0, 0, 0]
    await ledger.why(opened[0].id)
    guest = GuestFilter(ip_address="203.0.113.7")
    await ledger.find(FindFilter(around=now, guest=guest, channel_id="ch_1", statuses=("active",), idempotency_key="k"))
    assert (await ledger.find(FindFilter(around=now))).found
    [known, *_] = [row.session_id async for row in ledger.sessions() if row.session_id is not None]
    await ledger.session(known)
    assert await ledger.limits.reset("nobody", requested_by="a test") is False
    await ledger.limits.states()
    await consume(ledger)
    assert (await ledger.partitions.list())[0].attached
    assert (await ledger.health()).database is None


async def consume(ledger: Ledger) -> None:
    handled = asyncio.Event()

    async def handle(_events: Sequence[object]) -> None:
        handled.set()

    consuming = asyncio.create_task(ledger.events.consume("queue", handle))
    async with asyncio.timeout(PATIENCE):
        await handled.wait()
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    assert [consumer.name for consumer in await ledger.events.consumers()] == ["queue"]
    assert await ledger.events.forget_consumer("queue")


async def archive(url: str) -> None:
    """Detach and attach a month, as its owner."""
    await logs.write(url, 50, after=10_000, began=EARLY)
    settings = Settings(encryption_key=KEY, database_url=url, allow_owner=True)
    async with connect(settings, scheduler=False) as ledger, open_archive(settings) as opened:
        assert await opened.settle() == 50
        await ledger.projections.catch_up()
        await opened.detach(date(2024, 3, 1))
        await opened.attach(date(2024, 3, 1))
