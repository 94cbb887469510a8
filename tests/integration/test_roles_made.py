"""Creating a ledger's roles and correcting its grants, and what a user who cannot gets to know."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin import migrate
from guestledger.adapters.postgres.admin.grants import ROLES, RUNTIME, role_name
from guestledger.adapters.postgres.errors import Access, NotAllowed
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from tests.e2e.command import environment, run
from tests.event_stores import open_store
from tests.integration.appends import an_append
from tests.integration.conftest import NewLogin, Sql
from tests.integration.plain_sql import CATALOGUE, connect_plainly
from tests.keys import KEY
from tests.postgres import as_administrator


@pytest.fixture
async def tenant(postgres_server: str) -> AsyncIterator[str]:
    """A schema whose roles do not exist in this cluster; they are dropped at the end."""
    schema = f"tenant_{uuid4().hex[:8]}"
    yield schema
    connection = await connect_plainly(postgres_server)
    for role in ROLES:
        await connection.execute(f"DROP ROLE IF EXISTS {role_name(schema, role)}")
    await connection.close()


@pytest.fixture
async def empty(tenant: str, empty_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_plainly(empty_database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def maker(empty: asyncpg.Connection, empty_database_url: str, new_login_at: NewLogin) -> Any:
    """Create a user who may create schemas in the empty database, with these options of CREATE ROLE. Returns its URL."""

    async def make(options: str = "") -> str:
        url = await new_login_at(empty_database_url, options)
        user, database = make_url(url).username, make_url(url).database
        await empty.execute(f"GRANT CREATE ON DATABASE {database} TO {user}")
        return url

    return make


async def owners(connection: asyncpg.Connection, schema: str) -> set[str]:
    found = await connection.fetch(
        "SELECT tableowner FROM pg_tables WHERE schemaname = $1 UNION SELECT nspowner::regrole::text FROM pg_namespace "
        "WHERE nspname = $1 UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace::regnamespace::text = $1",
        schema,
    )
    return {row[0] for row in found}


async def append(url: str, schema: str) -> int:
    engine = open_engine(url, schema)
    store = open_store(engine, schema)
    try:
        return (await store.append(an_append())).position
    finally:
        await store.close()
        await engine.dispose()


async def test_createrole_is_enough_to_create_a_ledger_and_hand_it_over(
    tenant: str, maker: Any, empty: asyncpg.Connection, new_login_at: NewLogin, caplog: pytest.LogCaptureFixture
) -> None:
    url = await maker("CREATEROLE")

    for _ in range(2):
        await migrate.upgrade(url, tenant)

    assert not caplog.records
    assert await owners(empty, tenant) == {role_name(tenant, "owner")}
    runtime = await new_login_at(url, f"IN ROLE {role_name(tenant, RUNTIME)}")
    assert await append(runtime, tenant) == 0
    async with connect(Settings(encryption_key=KEY, database_url=runtime, schema=tenant), scheduler=False) as ledger:
        assert len([batch async for batch in ledger.events.read()]) == 1


async def test_without_createrole_an_upgrade_works_and_names_the_statements(
    tenant: str, maker: Any, empty: asyncpg.Connection, new_login_at: NewLogin, caplog: pytest.LogCaptureFixture
) -> None:
    url = await maker()

    await migrate.upgrade(url, tenant)

    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "\n" not in warning
    assert "then repeat the upgrade" in warning
    assert await append(url, tenant) == 0
    await empty.execute(warning.split("`")[1])
    caplog.clear()

    await migrate.upgrade(url, tenant)

    assert not caplog.records
    assert await owners(empty, tenant) == {role_name(tenant, "owner")}
    assert await append(await new_login_at(url, f"IN ROLE {role_name(tenant, RUNTIME)}"), tenant) == 1


async def test_a_user_who_cannot_act_as_owner_keeps_the_ledger_and_is_warned(
    tenant: str, maker: Any, empty: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    for role in ROLES:
        await empty.execute(f"CREATE ROLE {role_name(tenant, role)}")
    url = await maker()

    await migrate.upgrade(url, tenant)

    user = str(make_url(url).username)
    assert await owners(empty, tenant) == {user}
    assert [f'run `GRANT "{tenant}_owner" TO "{user}"`' in record.getMessage() for record in caplog.records] == [True]


async def test_an_upgrade_corrects_grants_changed_by_hand(
    database_url: str, sql: Sql, runtime: asyncpg.Connection
) -> None:
    columns = "SELECT attname, attacl FROM pg_attribute WHERE attrelid = 'events'::regclass ORDER BY attnum"
    before = [await sql(CATALOGUE), await sql(columns)]
    await sql("GRANT ALL ON events, head TO guestledger_runtime WITH GRANT OPTION")
    await sql("GRANT UPDATE (actor) ON events TO PUBLIC")
    await sql("GRANT ALL ON SCHEMA guestledger TO PUBLIC")
    await sql("REVOKE ALL ON due_steps FROM guestledger_runtime")
    await sql("ALTER TABLE request_keys OWNER TO CURRENT_USER")

    await migrate.upgrade(as_administrator(database_url))

    assert [await sql(CATALOGUE), await sql(columns)] == before
    assert not await runtime.fetchval("SELECT has_schema_privilege('guestledger', 'CREATE')")


async def test_an_upgrade_by_the_runtime_user_changes_and_logs_nothing(
    ledger_url: str, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    before = await sql(CATALOGUE)
    await migrate.upgrade(ledger_url)
    assert await sql(CATALOGUE) == before
    assert not caplog.records


async def test_a_user_who_may_not_create_a_ledger_learns_which_role_may(ledger_url: str) -> None:
    with pytest.raises(NotAllowed, match="permission denied for database") as raised:
        await migrate.upgrade(ledger_url, "another")
    error = raised.value
    assert (error.access, error.schema, error.role) == (Access.CHANGE_TABLES, "another", "another_owner")


async def test_ledgers_of_one_name_in_two_databases_are_created_at_once(
    tenant: str, empty: asyncpg.Connection, empty_database_url: str, database_url: str
) -> None:
    made = await asyncio.gather(
        *(
            run("db", "upgrade", env=environment(as_administrator(url), schema=tenant))
            for url in (empty_database_url, database_url)
        )
    )
    assert [result.code for result in made] == [0, 0], made
    assert await owners(empty, tenant) == {role_name(tenant, "owner")}


@pytest.mark.parametrize("schema", ["s" * 55, "s" * 56, "s" * 63])
def test_a_role_name_fits_and_is_unique_for_any_schema(schema: str) -> None:
    names = {role_name(name, role) for name in (schema, schema[:-1] + "t") for role in (*ROLES, "login")}
    assert len(names) == 2 * (len(ROLES) + 1)
    assert max(len(name) for name in names) <= 63
