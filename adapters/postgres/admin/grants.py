"""The four roles of a ledger and their grants: the owner migrates, the runtime works, the auditor reads, and privacy
reads personal data too, erases it, and records that it did.

Database users are members of one. Ledgers of one schema name in several databases of a cluster share their roles.
"""

from collections.abc import Mapping
from hashlib import sha256

from guestledger.adapters.postgres import tables as t
from guestledger.adapters.postgres.projections import registry

OWNER, RUNTIME, AUDITOR, PRIVACY = ROLES = ("owner", "runtime", "auditor", "privacy")
_MAX_NAME = 63  # bytes, PostgreSQL's limit

Grants = Mapping[str, frozenset[str]]
"""Privileges by role."""

_READ = frozenset({"SELECT"})
_APPEND = _READ | {"INSERT"}
_WRITE = _APPEND | {"UPDATE", "DELETE"}
_COMPLETE = frozenset({"UPDATE (completed_at)", "UPDATE (key_ids)"})
_HOLDS = frozenset(f"SELECT ({name})" for name in ("placed_at", "placed_by", "reason"))
_REVOKE = frozenset({"UPDATE (revoked_at)"})
_RUN = frozenset({"EXECUTE"})

_READERS: Grants = {AUDITOR: _READ, PRIVACY: _READ}

LOG: Mapping[str, Grants] = {
    t.events.name: {RUNTIME: _APPEND, **_READERS, PRIVACY: _APPEND},
    t.request_keys.name: {RUNTIME: _APPEND, **_READERS, PRIVACY: _APPEND},
    t.batches.name: {RUNTIME: _APPEND, **_READERS, PRIVACY: _APPEND},
    t.policies.name: {RUNTIME: _APPEND, **_READERS, PRIVACY: _APPEND},
    t.detached_partitions.name: {RUNTIME: _READ, **_READERS},
    # Locking a row takes UPDATE on a column; a CHECK keeps its value.
    t.head.name: {RUNTIME: _READ | {"UPDATE (id)"}, **_READERS, PRIVACY: _READ | {"UPDATE (id)"}},
}
"""The tables that nobody may change."""

TABLES: Mapping[str, Grants] = {
    **LOG,
    # An append is one statement, which needs each of these privileges, whatever it records.
    t.personal.name: {RUNTIME: _APPEND | {"DELETE"}, PRIVACY: _APPEND | {"DELETE"}},
    t.personal_index.name: {RUNTIME: _APPEND | {"DELETE"}, PRIVACY: _APPEND | {"DELETE"}},
    t.due_steps.name: {RUNTIME: _WRITE, PRIVACY: _WRITE},
    t.erasures.name: {
        RUNTIME: _APPEND | _COMPLETE,
        AUDITOR: _READ,
        PRIVACY: _APPEND | _COMPLETE,
    },
    t.wrapping_keys.name: {RUNTIME: _WRITE, PRIVACY: _READ},
    t.data_keys.name: {RUNTIME: _WRITE, PRIVACY: _APPEND | {"DELETE"}},
    t.destroyed_keys.name: {RUNTIME: _APPEND | {"UPDATE (gone)"}, PRIVACY: _APPEND},
    t.legal_holds.name: {RUNTIME: _APPEND | {"DELETE"}, AUDITOR: _HOLDS, PRIVACY: _APPEND | {"DELETE"}},
    t.api_keys.name: {RUNTIME: _APPEND | _REVOKE, **_READERS},
    t.limits.name: {RUNTIME: _WRITE, **_READERS},
    t.incarnations.name: {RUNTIME: _APPEND, **_READERS},
    t.consumers.name: {RUNTIME: _WRITE, **_READERS},
    t.checkpoints.name: {RUNTIME: _WRITE, **_READERS},
    **{table.name: {RUNTIME: _WRITE, **_READERS} for table in registry.TABLES},
    **{table.name: {RUNTIME: _WRITE | {"TRUNCATE"}} for table in registry.SHADOWS},
    "alembic_version": {RUNTIME: _READ, **_READERS},
}
"""Every table of a ledger."""

FUNCTIONS: Mapping[str, Grants] = {
    "ensure_partitions": {RUNTIME: _RUN},
    "first_id": {RUNTIME: _RUN, AUDITOR: _RUN, PRIVACY: _RUN},
    "unpartitioned_events": {RUNTIME: _RUN, AUDITOR: _RUN, PRIVACY: _RUN},
    "attach_partition": {},
    "check_batch": {},
    "check_end": {},
    "create_partition": {},
    "create_partitions_for": {},
    "create_partition_table": {},
    "guard_partition": {},
    "refuse_change": {},
}
"""Every function of a ledger."""

_USE = frozenset({"USAGE"})
SCHEMA: Grants = {OWNER: frozenset({"CREATE", "USAGE"}), RUNTIME: _USE, AUDITOR: _USE, PRIVACY: _USE}


def role_name(schema: str, role: str) -> str:
    """The name of this role of the ledger in `schema`; a long schema is cut and hashed."""
    name = f"{schema}_{role}"
    if len(name.encode()) <= _MAX_NAME:
        return name
    return f"{schema[:32]}_{sha256(schema.encode()).hexdigest()[:16]}_{role}"
