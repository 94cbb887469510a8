"""Checks a ledger's database user."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from guestledger.adapters.postgres.admin.grants import LOG, RUNTIME, TABLES, Grants, role_name
from guestledger.adapters.postgres.errors import Access, NotAllowed, TooManyPrivileges, in_short, reported
from guestledger.adapters.postgres.transactions import pooled_connection

_ON_TABLES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
_ON_COLUMNS = ("INSERT", "UPDATE", "REFERENCES")
_SINCE_17 = ("MAINTAIN",)
# Their members write every table, or write files and run programs on the server.
_POWERFUL = ("pg_write_all_data", "pg_maintain", "pg_write_server_files", "pg_execute_server_program")

# A member of a role can take its rights, by SET ROLE or by a grant to itself. A session can return to its login user. Of a
# superuser only that is reported, of a partition only what does not hold for the whole table.
_EXCESS = """
    WITH RECURSIVE who AS (
        SELECT oid, rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname IN (current_user, session_user)
    ), reach AS (
        SELECT DISTINCT r.oid, r.rolname FROM pg_roles AS r, who
         WHERE NOT who.rolsuper AND pg_has_role(who.oid, r.oid, 'MEMBER')
    ), guarded AS (
        SELECT oid, relname, relname AS shown, relowner, CAST(NULL AS oid) AS above FROM pg_class
         WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema) AND relname = ANY(CAST(:log AS text[]))
         UNION ALL
        SELECT part.oid, guarded.relname, part.relname, part.relowner, guarded.oid
          FROM guarded JOIN pg_inherits ON inhparent = guarded.oid JOIN pg_class AS part ON part.oid = inhrelid
    ), owned AS (
        SELECT reach.oid, rolname, shown FROM guarded JOIN reach ON relowner = reach.oid
         WHERE NOT EXISTS (SELECT FROM pg_class AS a WHERE a.oid = above AND a.relowner = reach.oid)
         UNION ALL
        SELECT reach.oid, rolname, 'the schema ' || nspname FROM pg_namespace JOIN reach ON nspowner = reach.oid
         WHERE nspname = :schema
         UNION ALL
        SELECT reach.oid, rolname, 'the database' FROM pg_database JOIN reach ON datdba = reach.oid
         WHERE datname = current_database()
    )
    SELECT 1 AS rank, 'is a superuser' AS text FROM who WHERE rolsuper
     UNION ALL
    SELECT 1, 'has CREATEROLE' FROM who
     WHERE rolcreaterole AND NOT rolsuper AND CAST(current_setting('server_version_num') AS int) < 160000
     UNION ALL
    SELECT 2, CASE WHEN rolname IN (current_user, session_user) THEN 'owns ' ELSE 'is a member of ' || rolname || ', which owns '
              END || string_agg(DISTINCT shown, ', ') FROM owned GROUP BY rolname
     UNION ALL
    SELECT 3, 'is a member of ' || rolname FROM reach WHERE rolname = ANY(CAST(:powerful AS text[]))
     UNION ALL
    SELECT 4, 'has CREATE on the schema ' || nspname FROM pg_namespace AS n
     WHERE nspname = :schema AND NOT EXISTS (SELECT FROM reach WHERE reach.oid = nspowner)
       AND EXISTS (SELECT FROM reach WHERE has_schema_privilege(reach.oid, n.oid, 'CREATE'))
     UNION ALL
    SELECT 5, 'has ' || string_agg(privilege, ', ' ORDER BY number) || ' on ' || shown
      FROM guarded CROSS JOIN unnest(CAST(:privileges AS text[])) WITH ORDINALITY AS p(privilege, number)
     WHERE relname || ' ' || privilege <> ALL(CAST(:due AS text[]))
       AND NOT EXISTS (SELECT FROM reach WHERE reach.oid = relowner)
       AND EXISTS (SELECT FROM reach WHERE has_table_privilege(reach.oid, guarded.oid, privilege)
                      OR privilege = ANY(CAST(:on_columns AS text[]))
                         AND has_any_column_privilege(reach.oid, guarded.oid, privilege))
       AND NOT EXISTS (SELECT FROM reach WHERE has_table_privilege(reach.oid, above, privilege))
     GROUP BY shown
     ORDER BY 1, 2"""

_LACKING = """
    SELECT privilege || ' on ' || relname
      FROM unnest(CAST(:tables AS text[]), CAST(:privileges AS text[])) AS due(name, privilege)
      JOIN pg_class ON relname = name AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema)
     WHERE NOT has_table_privilege(pg_class.oid, privilege)
       AND NOT (privilege = ANY(CAST(:on_columns AS text[])) AND has_any_column_privilege(pg_class.oid, privilege))
     ORDER BY 1"""

_USER = """
    SELECT current_user, EXISTS (SELECT FROM pg_roles WHERE rolname = :role),
           EXISTS (SELECT FROM pg_roles WHERE rolname = :role AND pg_has_role(oid, 'MEMBER'))"""


async def check_privileges(engine: AsyncEngine, schema: str, *, allow_owner: bool, works: bool) -> None:
    """Check that the user may run the ledger (if it `works`) and cannot change the log (unless `allow_owner`).

    Raises `TooManyPrivileges`, `NotAllowed`.
    """
    role = role_name(schema, RUNTIME)
    excess: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    with reported():
        async with pooled_connection(engine) as connection:
            user, role_exists, member = (await connection.execute(text(_USER), {"role": role})).one()
            if not allow_owner:
                excess = await _excess(connection, schema)
            if works:
                lacking = tuple(await connection.scalars(text(_LACKING), _lacking_parameters(schema)))
    if excess:
        raise TooManyPrivileges(user, excess, role, role_exists=role_exists)
    if lacking:
        refusal = f"it lacks {in_short(lacking, ', ')}"
        raise NotAllowed(Access.RUN, refusal, schema=schema, role=role, user=user, lacking=lacking, member=member)


async def _excess(connection: AsyncConnection, schema: str) -> tuple[str, ...]:
    version = connection.dialect.server_version_info or ()
    parameters = {
        "schema": schema,
        "log": list(LOG),
        "powerful": list(_POWERFUL),
        "privileges": [name for name in _ON_TABLES if version >= (17,) or name not in _SINCE_17],
        "due": [f"{entry.table} {entry.privilege}" for entry in _due(LOG)],
        "on_columns": list(_ON_COLUMNS),
    }
    return tuple(shown for _, shown in await connection.execute(text(_EXCESS), parameters))


def _lacking_parameters(schema: str) -> dict[str, Any]:
    due = _due(TABLES)
    return {
        "schema": schema,
        "tables": [entry.table for entry in due],
        "privileges": [entry.privilege for entry in due],
        "on_columns": list(_ON_COLUMNS),
    }


class _Due(NamedTuple):
    table: str
    privilege: str


def _due(tables: Mapping[str, Grants]) -> list[_Due]:
    """The runtime's privileges; one on a column counts as the privilege."""
    return [
        _Due(table, privilege.partition(" (")[0])
        for table, grants in tables.items()
        for privilege in sorted(grants[RUNTIME])
    ]
