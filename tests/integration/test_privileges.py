"""Who may open a ledger: a user who can work on the log and cannot change it."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guestledger.adapters.database import open_archive, upgrade_database
from guestledger.adapters.postgres.admin import migrate
from guestledger.adapters.postgres.errors import Access, NotAllowed, TooManyPrivileges
from guestledger.adapters.settings import InvalidSettings, Settings
from guestledger.adapters.wiring import connect
from tests.e2e.command import assert_one_line, environment, run
from tests.integration.conftest import NewLogin, Sql
from tests.integration.plain_sql import connect_plainly
from tests.keys import KEY
from tests.postgres import as_administrator

RUNTIME = "IN ROLE guestledger_runtime"

# What an administrator grants the user {u} in excess, and how it is named.
TOO_MANY = {
    "UPDATE": ("GRANT UPDATE ON events TO {u}", "has UPDATE on events"),
    "UPDATE of one column": ("GRANT UPDATE (actor) ON events TO {u}", "has UPDATE on events"),
    "DELETE": ("GRANT DELETE ON events TO {u}", "has DELETE on events"),
    "TRUNCATE": ("GRANT TRUNCATE ON events TO {u}", "has TRUNCATE on events"),
    "REFERENCES": ("GRANT REFERENCES ON events TO {u}", "has REFERENCES on events"),
    "REFERENCES of one column": ("GRANT REFERENCES (version) ON events TO {u}", "has REFERENCES on events"),
    "TRIGGER": ("GRANT TRIGGER ON events TO {u}", "has TRIGGER on events"),
    "MAINTAIN": ("GRANT MAINTAIN ON events TO {u}", "has MAINTAIN on events"),
    "DELETE of keys": ("GRANT DELETE ON request_keys TO {u}", "has DELETE on request_keys"),
    "DELETE of the head": ("GRANT DELETE ON head TO {u}", "has DELETE on head"),
    "several at once": (
        "GRANT ALL ON events TO {u}; GRANT DELETE ON head TO {u}",
        "has DELETE on head; has UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER, MAINTAIN on events",
    ),
    "what everybody may": ("GRANT DELETE ON events TO PUBLIC", "has DELETE on events"),
    "CREATE on the schema": (
        "GRANT CREATE ON SCHEMA guestledger TO {u}",
        "has CREATE on the schema guestledger",
    ),
    "the owner's role": (
        "GRANT guestledger_owner TO {u}",
        "is a member of guestledger_owner, which owns batches, detached_partitions, events, head, policies, request_keys, the schema guestledger",
    ),
    "the owner's role, to be taken on by SET ROLE": (
        "GRANT guestledger_owner TO {u} WITH INHERIT FALSE, SET TRUE",
        "is a member of guestledger_owner, which owns batches, detached_partitions, events, head, policies, request_keys, the schema guestledger",
    ),
    "to admit itself to the owner's role": (
        "GRANT guestledger_owner TO {u} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
        "is a member of guestledger_owner, which owns batches, detached_partitions, events, head, policies, request_keys, the schema guestledger",
    ),
    "a table of its own": ("ALTER TABLE request_keys OWNER TO {u}", "owns request_keys"),
    "the database": (
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO {u}', current_database()); END $$",
        "owns the database",
    ),
    "to write everywhere": (
        "GRANT pg_write_all_data TO {u}",
        (
            "is a member of pg_write_all_data; has INSERT, DELETE on head; has INSERT, UPDATE, DELETE on detached_partitions; has UPDATE, DELETE on batches; has UPDATE, DELETE on events; "
            "has UPDATE, DELETE on policies; has UPDATE, DELETE on request_keys"
        ),
    ),
    "to run the server's programs": (
        "GRANT pg_execute_server_program TO {u}",
        "is a member of pg_execute_server_program",
    ),
    "to be a superuser": ("ALTER ROLE {u} SUPERUSER", "is a superuser"),
    "by way of another role": (
        "GRANT DELETE ON events TO {other}; GRANT {other} TO {u}",
        "has DELETE on events",
    ),
}


@pytest.fixture
async def user(database_url: str, new_login_at: NewLogin) -> str:
    """The URL of a user of the test's own with the runtime role."""
    return await new_login_at(database_url, RUNTIME)


async def refused(url: str) -> TooManyPrivileges:
    with pytest.raises(TooManyPrivileges) as raised:
        async with connect(Settings(encryption_key=KEY, database_url=url), scheduler=False):
            pass
    return raised.value


async def opens(url: str, **given: Any) -> bool:
    async with connect(Settings(encryption_key=KEY, database_url=url, **given), scheduler=False) as ledger:
        return await ledger.scheduler.unfinished() == 0


@pytest.mark.parametrize("what", TOO_MANY)
async def test_a_user_with_an_excess_privilege_is_refused_by_its_name(
    what: str, user: str, sql: Sql, outsider: asyncpg.Connection, database_url: str, new_login_at: NewLogin
) -> None:
    assert await opens(user)
    name, (doing, wanted) = make_url(user).username, TOO_MANY[what]
    other = make_url(await new_login_at(database_url)).username if "{other}" in doing else ""
    await outsider.execute(doing.format(u=name, other=other))

    error = await refused(user)

    assert str(error) == f"the database user {name} can change the log: it {wanted}"
    assert "; ".join(error.excess) == wanted
    assert (error.user, error.role, error.role_exists) == (name, "guestledger_runtime", True)
    assert await opens(user, allow_owner=True)


async def test_a_grant_on_one_partition_is_found(user: str, outsider: Any) -> None:
    name = make_url(user).username
    await outsider.execute(f"GRANT DELETE ON events_default TO {name}")
    assert (await refused(user)).excess == ("has DELETE on events_default",)


async def test_set_role_does_not_hide_a_superuser(user: str) -> None:
    administrator = as_administrator(user)
    engine = create_async_engine(
        administrator, connect_args={"server_settings": {"role": str(make_url(user).username)}}
    )
    with pytest.raises(TooManyPrivileges, match="it is a superuser"):
        async with connect(Settings(encryption_key=KEY), engine=engine, scheduler=False):
            pass
    await engine.dispose()


@pytest.fixture
async def host(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(as_administrator(database_url))
    yield engine
    await engine.dispose()


async def test_a_hosts_engine_is_checked_like_any_other(host: AsyncEngine) -> None:
    with pytest.raises(TooManyPrivileges, match="it is a superuser"):
        async with connect(Settings(encryption_key=KEY), engine=host):
            pass
    async with connect(Settings(encryption_key=KEY, allow_owner=True), engine=host) as ledger:
        assert await ledger.scheduler.unfinished() == 0


# Too few


async def test_a_user_without_access_learns_which_role_is_missing(database_url: str, new_login_at: NewLogin) -> None:
    url = await new_login_at(database_url)
    with pytest.raises(NotAllowed, match="permission denied for schema") as raised:
        await opens(url)
    assert (raised.value.access, raised.value.role) == (Access.OPEN, "guestledger_runtime")


@pytest.mark.parametrize("table", ["head", "due_steps", "sessions_shadow"])
async def test_a_worker_learns_which_privileges_its_user_lacks(user: str, outsider: Any, table: str) -> None:
    await outsider.execute(f"REVOKE ALL ON {table} FROM guestledger_runtime")
    with pytest.raises(NotAllowed) as raised:
        async with connect(Settings(encryption_key=KEY, database_url=user)):
            pass
    error = raised.value
    assert f"SELECT on {table}" in error.lacking
    assert (error.access, error.user, error.role) == (Access.RUN, make_url(user).username, "guestledger_runtime")
    assert error.member
    await migrate.upgrade(as_administrator(user))
    async with connect(Settings(encryption_key=KEY, database_url=user)):
        pass


# By the command line


async def test_the_command_refuses_a_superuser_unless_allowed(database_url: str) -> None:
    url = as_administrator(database_url)
    refused = await run("sessions", env=environment(url))
    assert_one_line(refused, "is a superuser", "member of guestledger_runtime", "GUESTLEDGER_ALLOW_OWNER=1")
    allowed = await run("sessions", "--json", env=environment(url, allow_owner="1"))
    assert (allowed.code, allowed.text, allowed.err) == (0, "", "")


def test_allow_owner_is_1_or_0() -> None:
    assert Settings.from_env({"GUESTLEDGER_ALLOW_OWNER": "1"}).allow_owner
    assert not Settings.from_env({"GUESTLEDGER_ALLOW_OWNER": "0"}).allow_owner
    with pytest.raises(InvalidSettings, match="GUESTLEDGER_ALLOW_OWNER is invalid: it must be 1 or 0"):
        Settings.from_env({"GUESTLEDGER_ALLOW_OWNER": "perhaps"})


# Migrations by a URL of their own


async def test_an_upgrade_uses_its_own_url(empty_database_url: str, runtime_server: str) -> None:
    runtime = make_url(runtime_server).set(database=make_url(empty_database_url).database)
    settings = Settings(
        encryption_key=KEY, database_url=runtime.render_as_string(False), migration_url=empty_database_url
    )

    await upgrade_database(settings)

    assert await opens(str(settings.database_url))
    again = await run(
        "db", "upgrade", env=environment(str(settings.database_url), migration_url=empty_database_url, schema="second")
    )
    assert again.code == 0, again.err
    connection = await connect_plainly(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM second.head") == 1
    await connection.close()


async def opened_archive(settings: Settings) -> None:
    async with open_archive(settings):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://who:hush-hush@127.0.0.1:1/none",
        "postgresql://who:hush-hush@/none?port=unreadable",
        "postgresql://who:hush-hush@/none?sslmode=unreadable",
        "hush-hush",
        "mysql://hush-hush/x",
    ],
)
@pytest.mark.parametrize("use", [upgrade_database, opened_archive])
async def test_a_broken_migration_url_is_reported_by_its_name(
    database_url: str, url: str, use: Callable[[Settings], Awaitable[None]]
) -> None:
    settings = replace(Settings(encryption_key=KEY, database_url=database_url), migration_url=url)
    with pytest.raises(Exception, match="GUESTLEDGER_MIGRATION_URL") as raised:
        await use(settings)
    assert not re.search("GUESTLEDGER_DATABASE_URL|hush-hush", str(raised.value))
    assert "hush-hush" not in repr(settings)
