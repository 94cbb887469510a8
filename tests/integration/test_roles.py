"""The roles owner, runtime, auditor and privacy, and the ways in which the runtime user cannot change the log."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from guestledger.adapters.postgres import tables
from guestledger.adapters.postgres.admin.grants import AUDITOR, FUNCTIONS, LOG, PRIVACY, RUNTIME, TABLES, role_name
from guestledger.adapters.simulator import Simulator
from guestledger.engine.log.appends import KeyTaken
from tests.integration.appends import an_append
from tests.integration.conftest import NewLedger, Sql
from tests.integration.plain_sql import CATALOGUE
from tests.unit.samples import request

KEY = {
    "events": "stream_id, version",
    "request_keys": "idempotency_key",
    "head": "id",
    "detached_partitions": "month",
    "batches": "position",
    "policies": "digest",
}
COLUMN = {
    "events": "actor",
    "request_keys": "stream_id",
    "head": "id",
    "detached_partitions": "digest",
    "batches": "recorded_at",
    "policies": "recorded_at",
}

# Statements a user could write. Those on `head` have a test of their own.
CHANGES = {
    "UPDATE": "UPDATE {t} SET {column} = {column}",
    "an UPDATE that would meet no row": "UPDATE {t} SET {column} = {column} WHERE false",
    "an UPDATE by way of INSERT": (
        "INSERT INTO {t} SELECT * FROM {t} ON CONFLICT ({key}) DO UPDATE SET {column} = excluded.{column}"
    ),
    "an UPDATE through a view of one's own": (
        "CREATE TEMP VIEW mine AS SELECT * FROM {t}; UPDATE mine SET {column} = {column}"
    ),
    "a MERGE that updates": (
        "MERGE INTO {t} USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET {column} = {column}"
    ),
}
WAYS_IN = {
    "DELETE": "DELETE FROM {t}",
    "a DELETE that would meet no row": "DELETE FROM {t} WHERE false",
    "a DELETE in a SELECT": "WITH gone AS (DELETE FROM {t} RETURNING *) SELECT * FROM gone",
    "a DELETE in a function": "DO $$ BEGIN DELETE FROM {t}; END $$",
    "a MERGE that deletes": "MERGE INTO {t} USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE": "TRUNCATE {t}",
    "a TRUNCATE together with another table": "TRUNCATE guestledger.sessions_shadow, {t} CASCADE",
    "a lock that shuts all others out": "DO $$ BEGIN LOCK TABLE {t} IN ACCESS EXCLUSIVE MODE; END $$",
    "DROP": "DROP TABLE {t} CASCADE",
    "DROP of the schema": "DROP SCHEMA guestledger CASCADE",
    "another owner": "ALTER TABLE {t} OWNER TO CURRENT_USER",
    "another column": "ALTER TABLE {t} ADD COLUMN mine int",
    "another type": "ALTER TABLE {t} ALTER COLUMN {column} TYPE text USING 'x'",
    "another name": "ALTER TABLE {t} RENAME TO mine",
    "another schema": "ALTER TABLE {t} SET SCHEMA public",
    "no triggers": "ALTER TABLE {t} DISABLE TRIGGER ALL",
    "a trigger of one's own": (
        "CREATE TRIGGER mine BEFORE INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "a rule of one's own": "CREATE RULE mine AS ON INSERT TO {t} DO INSTEAD NOTHING",
    "a policy of one's own": "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY",
    "an index of one's own": "CREATE UNIQUE INDEX ON {t} (({column} IS NULL))",
    "a partition of one's own": "CREATE TEMP TABLE mine (LIKE {t}); ALTER TABLE {t} ATTACH PARTITION mine DEFAULT",
    "a table of one's own put under it": "CREATE TEMP TABLE mine (LIKE {t}); ALTER TABLE mine INHERIT {t}",
    "a table in its schema": "CREATE TABLE guestledger.mine ()",
    "a function in its schema": "CREATE FUNCTION guestledger.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a body for the trigger's function": (
        "CREATE OR REPLACE FUNCTION guestledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'"
    ),
    "to be called a replica": "SET session_replication_role = replica",
    "to be the owner": "SET ROLE guestledger_owner",
    "to be a member of the owner": "GRANT guestledger_owner TO CURRENT_USER",
    "to grant it to oneself": "GRANT ALL ON {t} TO CURRENT_USER; DELETE FROM {t}",
    "to be somebody else": "SET SESSION AUTHORIZATION {administrator}",
    "by the catalogue": "UPDATE pg_trigger SET tgenabled = 'D'",
    "by the server's programs": "COPY {t} TO PROGRAM 'cat'",
    "by the server's files": "COPY {t} TO '/tmp/mine'",
    "to drop the database": "ALTER DATABASE {database} RENAME TO mine",
}


@pytest.fixture
async def everything(sql: Sql) -> Callable[[], Awaitable[list[Any]]]:
    async def look() -> list[Any]:
        return [await sql(f"SELECT * FROM {table}") for table in LOG] + [await sql(CATALOGUE)]

    return look


def ways_in() -> list[Any]:
    everywhere = {**CHANGES, **WAYS_IN}
    ways = {
        "events": everywhere,
        "request_keys": everywhere,
        "batches": everywhere,
        "policies": everywhere,
        "detached_partitions": WAYS_IN,
        "head": WAYS_IN,
    }
    return [pytest.param(table, way, id=f"{table}: {name}") for table in ways for name, way in ways[table].items()]


# The ways in


def test_every_table_of_the_log_is_attacked() -> None:
    assert set(KEY) == set(COLUMN) == set(LOG)


@pytest.mark.parametrize(("table", "way"), ways_in())
async def test_the_runtime_user_cannot_change_the_log(
    table: str, way: str, store: Any, runtime: asyncpg.Connection, everything: Any, postgres_server: str
) -> None:
    await store.append(an_append(key="order-1"))
    before = await everything()
    statement = way.format(
        t=f"guestledger.{table}",
        key=KEY[table],
        column=COLUMN[table],
        administrator=make_url(postgres_server).username,
        database=await runtime.fetchval("SELECT current_database()"),
    )

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await runtime.execute(statement)

    assert await everything() == before
    assert (await store.append(an_append())).position == 1


@pytest.mark.parametrize(
    "way",
    ["TABLE {t}", "INSERT INTO {t} TABLE guestledger.events", "DELETE FROM {t}", "TRUNCATE {t}", "DROP TABLE {t}"],
)
async def test_the_runtime_user_cannot_use_a_partition_by_its_name(way: str, runtime: asyncpg.Connection) -> None:
    for name in (f"events_{datetime.now(UTC):%Y_%m}", "events_default"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await runtime.execute(way.format(t=f"guestledger.{name}"))


async def test_the_runtime_user_can_only_lock_the_head_row(runtime: asyncpg.Connection, everything: Any) -> None:
    before = await everything()
    await runtime.execute("SELECT FROM guestledger.head FOR UPDATE; UPDATE guestledger.head SET id = 1")
    with pytest.raises(asyncpg.CheckViolationError):
        await runtime.execute("UPDATE guestledger.head SET id = 2")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await runtime.execute("INSERT INTO guestledger.head VALUES (2)")
    assert await everything() == before


@pytest.mark.parametrize("change", ["UPDATE {t} SET stream_id = stream_id", "DELETE FROM {t}", "TRUNCATE {t}"])
@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_a_trigger_keeps_request_keys_even_from_a_superuser(change: str, role: str, store: Any, sql: Sql) -> None:
    await store.append(an_append(key="order-1"))
    await sql(f"SET session_replication_role = {role}")
    with pytest.raises(asyncpg.RestrictViolationError, match=r"^guestledger\.request_keys is append-only"):
        await sql(change.format(t="request_keys"))
    with pytest.raises(KeyTaken):
        await store.append(an_append(key="order-1"))


# What each role may do


def test_every_table_has_declared_grants() -> None:
    assert set(TABLES) == {*tables.metadata.tables, "alembic_version"}


async def test_every_function_has_exactly_the_declared_grants(sql: Sql) -> None:
    found = await sql("SELECT oid, proname FROM pg_proc WHERE pronamespace = 'guestledger'::regnamespace")
    assert {name for _, name in found} <= set(FUNCTIONS)
    for function, name in found:
        for role in (RUNTIME, AUDITOR, PRIVACY):
            may = await sql(
                "SELECT has_function_privilege($1, $2::oid, 'EXECUTE')", role_name("guestledger", role), function
            )
            assert may[0][0] == ("EXECUTE" in FUNCTIONS[name].get(role, ()))


async def test_each_role_has_exactly_the_declared_grants(sql: Sql) -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for table, grantee, privilege in await sql(
        """SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants
            WHERE table_schema = 'guestledger' AND grantee <> 'guestledger_owner'"""
    ):
        found.setdefault((table, grantee), set()).add(privilege)
    laid_down = {
        (table, role_name("guestledger", role)): {name for name in privileges if "(" not in name}
        for table, grants in TABLES.items()
        for role, privileges in grants.items()
        if not all("(" in name for name in privileges)
    }
    assert found == laid_down
    assert {privilege for (_, grantee), given in found.items() for privilege in given if AUDITOR in grantee} == {
        "SELECT"
    }
    owners = await sql("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'guestledger'")
    assert [tuple(row) for row in owners] == [("guestledger_owner",)]


async def test_a_whole_session_works_with_the_runtime_privileges(new_ledger: NewLedger, simulator: Simulator) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        await ledger.open_session(request(idempotency_key="order-1"))
        await ledger.scheduler.run_until_idle()
        assert (await ledger.metrics()).counts["webhooks_synced"] == 1
        assert [entry.compliance_status async for entry in ledger.audit()] == ["verified"]
        for status in await ledger.projections.status():
            assert (await ledger.projections.verify(status.name)).is_same
            assert await ledger.projections.rebuild(status.name) == 0
