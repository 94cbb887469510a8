"""Who may do what in a ledger's schema: three roles that nobody logs in as, and what each may do, as data.

Whoever logs in is a member of one of them: the owner migrates, the runtime is what a ledger connects as, the auditor reads.
Roles belong to the whole cluster, so the ledgers of one name in several databases share theirs.
"""

import logging
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, text

from guestledger.adapters.postgres import tables as t
from guestledger.adapters.postgres.connection import open_engine, reported
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.adapters.postgres.statements import quoted

logger = logging.getLogger("guestledger")

OWNER, RUNTIME, AUDITOR = ROLES = ("owner", "runtime", "auditor")
_MAX_NAME = 63  # bytes, PostgreSQL's limit

Grants = Mapping[str, frozenset[str]]
"""For each role, its privileges; an absent one has none."""

_READ = frozenset({"SELECT"})
_APPEND = _READ | {"INSERT"}
_WRITE = _APPEND | {"UPDATE", "DELETE"}

_PROJECTED = [table.name for projection in PROJECTIONS.values() for table in projection.tables]

LOG: Mapping[str, Grants] = {
    "events": {RUNTIME: _APPEND, AUDITOR: _READ},
    "request_keys": {RUNTIME: _APPEND, AUDITOR: _READ},
    "batches": {RUNTIME: _APPEND, AUDITOR: _READ},
    "detached_months": {RUNTIME: _READ, AUDITOR: _READ},
    # To lock its row, one has to have UPDATE on some column of it. A CHECK lets the only one have no other value.
    t.head.name: {RUNTIME: _READ | {"UPDATE (id)"}, AUDITOR: _READ},
}
"""What nobody may change or take away, or all proof is gone with it."""

TABLES: Mapping[str, Grants] = {
    **LOG,
    "due_work": {RUNTIME: _WRITE},
    "limiters": {RUNTIME: _WRITE, AUDITOR: _READ},
    "consumers": {RUNTIME: _WRITE, AUDITOR: _READ},
    "checkpoints": {RUNTIME: _WRITE, AUDITOR: _READ},
    **{name: {RUNTIME: _WRITE, AUDITOR: _READ} for name in _PROJECTED},
    **{t.SHADOWS[name].name: {RUNTIME: _WRITE | {"TRUNCATE"}} for name in _PROJECTED},
    "alembic_version": {RUNTIME: _READ, AUDITOR: _READ},
}
"""Every table of a ledger. Those that are not there yet are passed over."""

_RUN = frozenset({"EXECUTE"})

FUNCTIONS: Mapping[str, Grants] = {
    "make_months": {RUNTIME: _RUN},
    **{name: {RUNTIME: _RUN, AUDITOR: _RUN} for name in ("first_id", "stray_events")},
    **{
        name: {}
        for name in ("refuse_change", "guard", "attach_month", "make_month", "make_months_of", "make_partition")
    },
}
"""Every function of a ledger; a trigger's is run whoever may."""

SCHEMA: Grants = {OWNER: frozenset({"CREATE", "USAGE"}), RUNTIME: frozenset({"USAGE"}), AUDITOR: frozenset({"USAGE"})}

# Each object with its owner, whether we may act as that, and who has been granted what on it. Partitions go with their
# table. An object that nobody has granted anything on has the default, by which PUBLIC may run functions.
_FOUND = """
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


def role_name(schema: str, role: str) -> str:
    """What this role of the ledger in `schema` is called; where that would be too long, the schema's part is cut and marked."""
    name = f"{schema}_{role}"
    if len(name.encode()) <= _MAX_NAME:
        return name
    return f"{schema[:32]}_{sha256(schema.encode()).hexdigest()[:16]}_{role}"


def reconcile_grants(connection: Connection, schema: str) -> None:
    """Make the roles, hand the ledger over to its owner, and put every grant right: as far as the user on `connection` may.

    Only what differs is changed. To be run behind every migration, in its transaction.
    """
    there = _make(connection, schema)
    given = {"schema": schema, "tables": list(TABLES), "functions": list(FUNCTIONS)}
    found = [row for row in connection.execute(text(_FOUND), given) if row.ours]
    owner = role_name(schema, OWNER)
    may_hand_over = OWNER in there and _may_act_as(connection, owner)
    may_make_schemas = connection.scalar(text("SELECT has_database_privilege(current_database(), 'CREATE')"))
    for kind, name, written, owned_by, _, granted in found:
        wanted: Grants = SCHEMA if kind == "SCHEMA" else (TABLES if kind == "TABLE" else FUNCTIONS).get(name, {})
        # The schema that every database has is not the ledger's own, even where somebody put a ledger into it. To hand a
        # schema over takes more than to own it, and is not needed: the owner is granted CREATE on it.
        hands_over = may_hand_over and (kind != "SCHEMA" or (written != "public" and may_make_schemas))
        if hands_over and owned_by != owner:
            connection.exec_driver_sql(f"ALTER {kind} {written} OWNER TO {quoted(owner)}")
        for role in there if kind == "SCHEMA" else there - {OWNER}:
            _grant(connection, f"{kind} {written}", role_name(schema, role), granted, wanted.get(role, frozenset()))
        _shut_out_public(connection, kind, written, granted)
    if OWNER in there and not may_hand_over and any(row.owner != owner for row in found):
        logger.warning(
            "the ledger in schema %s stays its maker's: have an administrator run `GRANT %s TO %s`, "
            "then run `guestledger db upgrade` again",
            *(schema, quoted(owner), quoted(_user(connection))),
        )


async def runtime_login(url: str, schema: str) -> str:
    """The name of a user who logs in without a password and has the runtime's rights, made where there is none.

    For the embedded server alone, whose socket nobody else can reach; `url` is its superuser's.
    """
    login, runtime = role_name(schema, "login"), role_name(schema, RUNTIME)
    engine = open_engine(url, schema, pool_size=1)
    try:
        with reported():
            async with engine.begin() as connection:
                made = f"CREATE ROLE {quoted(login)} LOGIN IN ROLE {quoted(runtime)}"
                await connection.exec_driver_sql(_unless_made(made))
    finally:
        await engine.dispose()
    return login


def _make(connection: Connection, schema: str) -> set[str]:
    """Make the roles that are missing, if we may, and see that we can act as the owner. Returns those that are there."""
    missing = _missing(connection, schema)
    if missing and not connection.scalar(
        text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    ):
        user = _user(connection)
        logger.warning(
            "the database user %s may not make the ledger's roles, so the log in schema %s is guarded by triggers alone: "
            "have an administrator run `%s`, then run `guestledger db upgrade` again",
            *(user, schema, make_statements(schema, missing, user)),
        )
        return set(ROLES) - missing
    for role in sorted(missing):
        connection.exec_driver_sql(_unless_made(f"CREATE ROLE {quoted(role_name(schema, role))} NOLOGIN"))
    _join_owner(connection, role_name(schema, OWNER))
    return set(ROLES)


def make_statements(schema: str, missing: Iterable[str], user: str) -> str:
    """What an administrator has to run for `user` to be able to put the rest right."""
    made = [f"CREATE ROLE {quoted(role_name(schema, role))}" for role in ROLES if role in missing]
    return "; ".join([*made, f"GRANT {quoted(role_name(schema, OWNER))} TO {quoted(user)}"])


def _missing(connection: Connection, schema: str) -> set[str]:
    names = {role_name(schema, role): role for role in ROLES}
    found = connection.scalars(
        text("SELECT rolname FROM pg_roles WHERE rolname = ANY(CAST(:names AS text[]))"), {"names": list(names)}
    )
    return set(names.values()) - {names[name] for name in found}


def _unless_made(statement: str) -> str:
    # Another database of the cluster may be making its ledger now: nothing but the attempt tells.
    return f"DO $make$ BEGIN {statement}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $make$"


def _join_owner(connection: Connection, owner: str) -> None:
    """Who makes a role may admit to it, but is no member by that."""
    if _may_act_as(connection, owner):
        return
    if connection.scalar(text("SELECT pg_has_role(:owner, 'USAGE WITH ADMIN OPTION')"), {"owner": owner}):
        connection.exec_driver_sql(_unless_made(f"GRANT {quoted(owner)} TO CURRENT_USER"))


def _may_act_as(connection: Connection, role: str) -> bool:
    """Whether we have the role's rights without further ado, and can make things its own."""
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


def _shut_out_public(connection: Connection, kind: str, written: str, granted: Iterable[str]) -> None:
    given = {entry.strip() for entry in granted if entry.startswith(" ")}
    if kind == "SCHEMA":  # to look in harms nothing, and a schema that is not the ledger's alone needs it
        given &= {"CREATE"}
    if given:
        connection.exec_driver_sql(f"REVOKE {'CREATE' if kind == 'SCHEMA' else 'ALL'} ON {kind} {written} FROM PUBLIC")


def _user(connection: Connection) -> str:
    return str(connection.scalar(text("SELECT current_user")))


def _version(connection: Connection) -> tuple[Any, ...]:
    return connection.dialect.server_version_info or ()
