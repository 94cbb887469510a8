"""Who can make a ledger's roles and put its grants right, and what those are told who cannot."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin import migrate
from guestledger.adapters.postgres.admin.roles import ROLES, RUNTIME, role_name
from guestledger.adapters.postgres.errors import NotAllowed
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from tests.e2e.command import environment, run
from tests.integration.appends import an_append
from tests.integration.conftest import NewLogin, Sql
from tests.integration.plain_sql import CATALOGUE, connect_plainly
from tests.postgres import as_administrator


@pytest.fixture
async def tenant(postgres_server: str) -> AsyncIterator[str]:
    """A schema whose roles nobody has made in this cluster; they are dropped at the end."""
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
    """Make a user who may make schemas in the empty database; `options` are those of CREATE ROLE. Its URL."""

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
    store = PostgresEventStore(engine, schema)
    try:
        return (await store.append(an_append())).position
    finally:
        await store.close()
        await engine.dispose()


async def test_who_may_make_roles_need_be_no_superuser_to_make_a_ledger_and_hand_it_over(
    tenant: str, maker: Any, empty: asyncpg.Connection, new_login_at: NewLogin, caplog: pytest.LogCaptureFixture
) -> None:
    url = await maker("CREATEROLE")

    for _ in range(2):
        await migrate.upgrade(url, tenant)

    assert not caplog.records
    assert await owners(empty, tenant) == {role_name(tenant, "owner")}
    runtime = await new_login_at(url, f"IN ROLE {role_name(tenant, RUNTIME)}")
    assert await append(runtime, tenant) == 0
    async with connect(Settings(database_url=runtime, schema=tenant), scheduler=False) as ledger:
        assert len([batch async for batch in ledger.events.read()]) == 1


async def test_who_may_make_no_roles_can_upgrade_is_told_what_to_have_run_and_after_that_all_is_well(
    tenant: str, maker: Any, empty: asyncpg.Connection, new_login_at: NewLogin, caplog: pytest.LogCaptureFixture
) -> None:
    url = await maker()

    await migrate.upgrade(url, tenant)

    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "\n" not in told
    assert "run `guestledger db upgrade` again" in told
    assert await append(url, tenant) == 0
    await empty.execute(told.split("`")[1])
    caplog.clear()

    await migrate.upgrade(url, tenant)

    assert not caplog.records
    assert await owners(empty, tenant) == {role_name(tenant, "owner")}
    assert await append(await new_login_at(url, f"IN ROLE {role_name(tenant, RUNTIME)}"), tenant) == 1


async def test_who_may_not_act_as_the_owner_keeps_the_ledger_and_is_told(
    tenant: str, maker: Any, empty: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    for role in ROLES:
        await empty.execute(f"CREATE ROLE {role_name(tenant, role)}")
    url = await maker()

    await migrate.upgrade(url, tenant)

    user = str(make_url(url).username)
    assert await owners(empty, tenant) == {user}
    assert [f'run `GRANT "{tenant}_owner" TO "{user}"`' in record.getMessage() for record in caplog.records] == [True]


async def test_an_upgrade_puts_right_what_was_granted_or_taken_by_hand(
    database_url: str, sql: Sql, runtime: asyncpg.Connection
) -> None:
    before = await sql(CATALOGUE)
    await sql("GRANT ALL ON events, head TO guestledger_runtime WITH GRANT OPTION")
    await sql("GRANT UPDATE (actor) ON events TO PUBLIC")
    await sql("GRANT ALL ON SCHEMA guestledger TO PUBLIC")
    await sql("REVOKE ALL ON due_work FROM guestledger_runtime")
    await sql("ALTER TABLE request_keys OWNER TO CURRENT_USER")

    await migrate.upgrade(as_administrator(database_url))

    assert await sql(CATALOGUE) == before
    assert not await sql("SELECT FROM pg_attribute WHERE attrelid = 'events'::regclass AND attacl IS NOT NULL")
    assert not await runtime.fetchval("SELECT has_schema_privilege('guestledger', 'CREATE')")


async def test_an_upgrade_by_the_runtimes_user_of_a_ledger_that_is_up_to_date_changes_nothing_and_says_nothing(
    ledger_url: str, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    before = await sql(CATALOGUE)
    await migrate.upgrade(ledger_url)
    assert await sql(CATALOGUE) == before
    assert not caplog.records


async def test_who_may_not_make_a_ledger_is_told_in_one_line_who_may(ledger_url: str) -> None:
    with pytest.raises(NotAllowed, match=r"permission denied for database .*GUESTLEDGER_MIGRATION_URL.*another_owner"):
        await migrate.upgrade(ledger_url, "another")


async def test_ledgers_of_one_name_in_two_databases_can_be_made_at_once(
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
def test_a_roles_name_fits_whatever_the_schemas_and_is_that_schemas_alone(schema: str) -> None:
    names = {role_name(name, role) for name in (schema, schema[:-1] + "t") for role in (*ROLES, "login")}
    assert len(names) == 8
    assert max(len(name) for name in names) <= 63
