"""What the connected user may do, held against what it is to be able to: looked at when a ledger is opened."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.roles import LOG, RUNTIME, TABLES, Grants, role_name
from guestledger.adapters.postgres.connection import NotAllowed, reported
from guestledger.adapters.postgres.statements import quoted
from guestledger.engine.domain.errors import GuestledgerError

_MAX_SHOWN = 12
_ON_TABLES = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
_OF_COLUMNS = ("INSERT", "UPDATE", "REFERENCES")
# Members of these write everywhere, write the server's files or run its programs, and so can change the log.
_POWERFUL = ("pg_write_all_data", "pg_maintain", "pg_write_server_files", "pg_execute_server_program")
_SINCE_17 = ("MAINTAIN",)

# Whoever is a member of a role may use its rights or can take them on, by SET ROLE or by a grant to itself. A session can
# always go back to the user that it was opened by. A superuser is a member of every role, so those go by that word alone.
# Of a partition only that is told which does not hold for the whole table.
_BEYOND = """
    WITH RECURSIVE who AS (
        SELECT oid, rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname IN (current_user, session_user)
    ), reach AS (
        SELECT DISTINCT r.oid, r.rolname FROM pg_roles AS r, who
         WHERE NOT who.rolsuper AND pg_has_role(who.oid, r.oid, 'MEMBER')
    ), guarded AS (
        SELECT oid, relname, relname AS told, relowner, CAST(NULL AS oid) AS above FROM pg_class
         WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema) AND relname = ANY(CAST(:log AS text[]))
         UNION ALL
        SELECT part.oid, guarded.relname, part.relname, part.relowner, guarded.oid
          FROM guarded JOIN pg_inherits ON inhparent = guarded.oid JOIN pg_class AS part ON part.oid = inhrelid
    ), owned AS (
        SELECT reach.oid, rolname, told FROM guarded JOIN reach ON relowner = reach.oid
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
              END || string_agg(DISTINCT told, ', ') FROM owned GROUP BY rolname
     UNION ALL
    SELECT 3, 'is a member of ' || rolname FROM reach WHERE rolname = ANY(CAST(:powerful AS text[]))
     UNION ALL
    SELECT 4, 'has CREATE on the schema ' || nspname FROM pg_namespace AS n
     WHERE nspname = :schema AND NOT EXISTS (SELECT FROM reach WHERE reach.oid = nspowner)
       AND EXISTS (SELECT FROM reach WHERE has_schema_privilege(reach.oid, n.oid, 'CREATE'))
     UNION ALL
    SELECT 5, 'has ' || string_agg(privilege, ', ' ORDER BY number) || ' on ' || told
      FROM guarded CROSS JOIN unnest(CAST(:privileges AS text[])) WITH ORDINALITY AS p(privilege, number)
     WHERE relname || ' ' || privilege <> ALL(CAST(:due AS text[]))
       AND NOT EXISTS (SELECT FROM reach WHERE reach.oid = relowner)
       AND EXISTS (SELECT FROM reach WHERE has_table_privilege(reach.oid, guarded.oid, privilege)
                      OR privilege = ANY(CAST(:of_columns AS text[]))
                         AND has_any_column_privilege(reach.oid, guarded.oid, privilege))
       AND NOT EXISTS (SELECT FROM reach WHERE has_table_privilege(reach.oid, above, privilege))
     GROUP BY told
     ORDER BY 1, 2"""

_LACKING = """
    SELECT privilege || ' on ' || relname
      FROM unnest(CAST(:tables AS text[]), CAST(:privileges AS text[])) AS due(name, privilege)
      JOIN pg_class ON relname = name AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema)
     WHERE NOT has_table_privilege(pg_class.oid, privilege)
       AND NOT (privilege = ANY(CAST(:of_columns AS text[])) AND has_any_column_privilege(pg_class.oid, privilege))
     ORDER BY 1"""

_ME = "SELECT current_user, EXISTS (SELECT FROM pg_roles WHERE rolname = :role)"


class TooManyPrivileges(GuestledgerError):
    """The database user could change the log. The text names each privilege that is too many."""


async def check_privileges(engine: AsyncEngine, schema: str, *, allow_owner: bool, works: bool) -> None:
    """See that the user of `engine` may do what a ledger does and, unless `allow_owner`, can do nothing to the log besides.

    One that only reads, without `works`, may have less. Raises `TooManyPrivileges`, `NotAllowed`.
    """
    role = role_name(schema, RUNTIME)
    beyond: list[str] = []
    with reported():
        async with engine.connect() as connection:
            user, has_role = (await connection.execute(text(_ME), {"role": role})).one()
            if not allow_owner:
                version = connection.dialect.server_version_info or ()
                found = await connection.execute(text(_BEYOND), _beyond_parameters(schema, version))
                beyond = [told for _, told in found]
            lacking = list(await connection.scalars(text(_LACKING), _lacking_parameters(schema))) if works else []
    if beyond:
        raise TooManyPrivileges(
            f"the database user {user} could change what is to stay as it is: it {_some(beyond)}. "
            f"{_remedy(role, has_role)}, or set GUESTLEDGER_ALLOW_OWNER=1 to have triggers alone guard the log"
        )
    if lacking:
        raise NotAllowed(
            f"the database user {user} may not run the ledger in schema {schema!r}: it lacks {_some(lacking, ', ')}: "
            f"have `GRANT {quoted(role)} TO {quoted(user)}` run, or `guestledger db upgrade` where it is a member already"
        )


def _beyond_parameters(schema: str, version: tuple[Any, ...]) -> dict[str, Any]:
    return {
        "schema": schema,
        "log": list(LOG),
        "powerful": list(_POWERFUL),
        "privileges": [name for name in _ON_TABLES if version >= (17,) or name not in _SINCE_17],
        "due": [f"{entry.table} {entry.privilege}" for entry in _due(LOG)],
        "of_columns": list(_OF_COLUMNS),
    }


def _lacking_parameters(schema: str) -> dict[str, Any]:
    due = _due(TABLES)
    return {
        "schema": schema,
        "tables": [entry.table for entry in due],
        "privileges": [entry.privilege for entry in due],
        "of_columns": list(_OF_COLUMNS),
    }


class _Due(NamedTuple):
    table: str
    privilege: str


def _due(tables: Mapping[str, Grants]) -> list[_Due]:
    """What the runtime has on these tables; a privilege on a column goes for the privilege."""
    return [
        _Due(table, privilege.partition(" (")[0])
        for table, grants in tables.items()
        for privilege in sorted(grants[RUNTIME])
    ]


def _some(told: list[str], between: str = "; ") -> str:
    rest = len(told) - _MAX_SHOWN
    return between.join(told[:_MAX_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _remedy(role: str, has_role: bool) -> str:
    made = f"Log in as a user made by `CREATE ROLE … LOGIN PASSWORD '…' IN ROLE {quoted(role)}`"
    return made if has_role else f"{made}, once `guestledger db upgrade` has been run by a user who may make roles"
