"""Creates a ledger's roles, and corrects owners and grants, as far as the user may."""

import logging
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, text

from guestledger.adapters.postgres.admin.grants import (
    FUNCTIONS,
    OWNER,
    ROLES,
    RUNTIME,
    SCHEMA,
    TABLES,
    Grants,
    role_name,
)
from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.sql import quoted

logger = logging.getLogger("guestledger")

# Each object with its owner, whether the user may act as the owner, and its grants. Partitions have their table's.
_OBJECTS = """
    WITH RECURSIVE ours AS (
        SELECT oid, relname, relowner, relacl FROM pg_class
         WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema)
           AND relname = ANY(CAST(:tables AS text[])) AND relkind IN ('r', 'p')
         UNION ALL
        SELECT part.oid, part.relname, part.relowner, part.relacl
          FROM ours JOIN pg_inherits ON inhparent = ours.oid JOIN pg_class AS part ON part.oid = inhrelid
    ), objects AS (
        SELECT 1 AS rank, 'SCHEMA' AS kind, nspname AS name, format('%I', nspname) AS written, nspowner AS owner,
               coalesce(nspacl, acldefault('n', nspowner)) AS acl, CAST(NULL AS oid) AS relation
          FROM pg_namespace WHERE nspname = :schema
         UNION ALL
        SELECT 2, 'TABLE', relname, CAST(CAST(oid AS regclass) AS text), relowner,
               coalesce(relacl, acldefault('r', relowner)), oid FROM ours
         UNION ALL
        SELECT 3, 'FUNCTION', proname, CAST(CAST(p.oid AS regprocedure) AS text), proowner,
               coalesce(proacl, acldefault('f', proowner)), NULL
          FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace
         WHERE nspname = :schema AND proname = ANY(CAST(:functions AS text[]))
    ), granted AS (
        SELECT written, acl.*, '' AS attribute FROM objects, aclexplode(acl) AS acl
         UNION ALL
        SELECT written, acl.*, format(' (%I)', attname)
          FROM objects JOIN pg_attribute ON attrelid = relation, aclexplode(attacl) AS acl
    )
    SELECT kind, name, written, pg_get_userbyid(owner) AS owner, pg_has_role(owner, 'USAGE') AS ours,
           ARRAY(SELECT coalesce(rolname, '') || ' ' || privilege_type || attribute
                        || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
                   FROM granted LEFT JOIN pg_roles ON pg_roles.oid = grantee
                  WHERE granted.written = objects.written) AS granted
      FROM objects ORDER BY rank, name"""


def reconcile_grants(connection: Connection, schema: str) -> None:
    """Bring roles, owners and grants to what `grants` declares. Runs after the migrations, in their transaction."""
    roles = _create_roles(connection, schema)
    names = {"schema": schema, "tables": list(TABLES), "functions": list(FUNCTIONS)}
    found = [row for row in connection.execute(text(_OBJECTS), names) if row.ours]
    owner = role_name(schema, OWNER)
    may_hand_over = OWNER in roles and _may_act_as(connection, owner)
    may_create_schemas = connection.scalar(text("SELECT has_database_privilege(current_database(), 'CREATE')"))
    for kind, name, written, owned_by, _, granted in found:
        wanted: Grants = SCHEMA if kind == "SCHEMA" else (TABLES if kind == "TABLE" else FUNCTIONS).get(name, {})
        # `public` is not the ledger's own. Handing a schema over takes CREATE on the database, and is not necessary: the owner
        # role has CREATE on the schema.
        hands_over = may_hand_over and (kind != "SCHEMA" or (written != "public" and may_create_schemas))
        if hands_over and owned_by != owner:
            connection.exec_driver_sql(f"ALTER {kind} {written} OWNER TO {quoted(owner)}")
        for role in roles if kind == "SCHEMA" else roles - {OWNER}:
            _grant(connection, f"{kind} {written}", role_name(schema, role), granted, wanted.get(role, frozenset()))
        _revoke_from_public(connection, kind, written, granted)
    if OWNER in roles and not may_hand_over and any(row.owner != owner for row in found):
        logger.warning(
            "the ledger in schema %s still belongs to the user who created it: have an administrator run `GRANT %s TO %s`, "
            "then repeat the upgrade",
            *(schema, quoted(owner), quoted(_user(connection))),
        )


async def runtime_login(url: str, schema: str) -> str:
    """Create a user with the runtime role and no password, unless it exists, and return its name.

    For the embedded server only: no other system user can reach its socket.
    """
    login, runtime = role_name(schema, "login"), role_name(schema, RUNTIME)
    engine = open_engine(url, schema, pool_size=1)
    try:
        with reported():
            async with engine.begin() as connection:
                create = f"CREATE ROLE {quoted(login)} LOGIN IN ROLE {quoted(runtime)}"
                await connection.exec_driver_sql(_unless_done(create))
    finally:
        await engine.dispose()
    return login


def setup_statements(schema: str, missing: Iterable[str], user: str) -> str:
    """What an administrator has to run first."""
    create = [f"CREATE ROLE {quoted(role_name(schema, role))}" for role in ROLES if role in missing]
    return "; ".join([*create, f"GRANT {quoted(role_name(schema, OWNER))} TO {quoted(user)}"])


def _create_roles(connection: Connection, schema: str) -> set[str]:
    """Create the missing roles if the user may. Returns those that exist."""
    missing = _missing(connection, schema)
    may_create = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    if missing and not connection.scalar(text(may_create)):
        user = _user(connection)
        logger.warning(
            "the database user %s may not create the ledger's roles, so triggers alone protect the log in schema %s: "
            "have an administrator run `%s`, then repeat the upgrade",
            *(user, schema, setup_statements(schema, missing, user)),
        )
        return set(ROLES) - missing
    for role in sorted(missing):
        connection.exec_driver_sql(_unless_done(f"CREATE ROLE {quoted(role_name(schema, role))} NOLOGIN"))
    _join_owner(connection, role_name(schema, OWNER))
    return set(ROLES)


def _missing(connection: Connection, schema: str) -> set[str]:
    names = {role_name(schema, role): role for role in ROLES}
    found = connection.scalars(
        text("SELECT rolname FROM pg_roles WHERE rolname = ANY(CAST(:names AS text[]))"), {"names": list(names)}
    )
    return set(names.values()) - {names[name] for name in found}


def _unless_done(statement: str) -> str:
    # A ledger in another database of the cluster may be created at the same time.
    return f"DO $do$ BEGIN {statement}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $do$"


def _join_owner(connection: Connection, owner: str) -> None:
    """Creating a role does not make its creator a member."""
    if _may_act_as(connection, owner):
        return
    if connection.scalar(text("SELECT pg_has_role(:owner, 'USAGE WITH ADMIN OPTION')"), {"owner": owner}):
        connection.exec_driver_sql(_unless_done(f"GRANT {quoted(owner)} TO CURRENT_USER"))


def _may_act_as(connection: Connection, role: str) -> bool:
    switch = "SET" if _version(connection) >= (16,) else "MEMBER"
    statement = "SELECT pg_has_role(:role, 'USAGE') AND pg_has_role(:role, :switch)"
    return bool(connection.scalar(text(statement), {"role": role, "switch": switch}))


def _grant(connection: Connection, on: str, role: str, granted: Iterable[str], wanted: frozenset[str]) -> None:
    found = {entry.removeprefix(f"{role} ") for entry in granted if entry.startswith(f"{role} ")}
    if found == wanted:
        return
    if found:
        connection.exec_driver_sql(f"REVOKE ALL ON {on} FROM {quoted(role)}")
    if wanted:
        connection.exec_driver_sql(f"GRANT {', '.join(sorted(wanted))} ON {on} TO {quoted(role)}")


def _revoke_from_public(connection: Connection, kind: str, written: str, granted: Iterable[str]) -> None:
    found = {entry.strip() for entry in granted if entry.startswith(" ")}
    if kind == "SCHEMA":  # a host that shares the schema may need USAGE
        found &= {"CREATE"}
    if found:
        connection.exec_driver_sql(f"REVOKE {'CREATE' if kind == 'SCHEMA' else 'ALL'} ON {kind} {written} FROM PUBLIC")


def _user(connection: Connection) -> str:
    return str(connection.scalar(text("SELECT current_user")))


def _version(connection: Connection) -> tuple[Any, ...]:
    return connection.dialect.server_version_info or ()
