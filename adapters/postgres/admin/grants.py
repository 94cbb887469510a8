"""The three roles of a ledger and their grants: the owner migrates, the runtime works, the auditor reads.

Database users are members of one. Ledgers of one schema name in several databases of a cluster share their roles.
"""

from collections.abc import Mapping
from hashlib import sha256

from guestledger.adapters.postgres import tables as t
from guestledger.adapters.postgres.projections import registry

OWNER, RUNTIME, AUDITOR = ROLES = ("owner", "runtime", "auditor")
_MAX_NAME = 63  # bytes, PostgreSQL's limit

Grants = Mapping[str, frozenset[str]]
"""Privileges by role."""

_READ = frozenset({"SELECT"})
_APPEND = _READ | {"INSERT"}
_WRITE = _APPEND | {"UPDATE", "DELETE"}
_RUN = frozenset({"EXECUTE"})

LOG: Mapping[str, Grants] = {
    t.events.name: {RUNTIME: _APPEND, AUDITOR: _READ},
    t.request_keys.name: {RUNTIME: _APPEND, AUDITOR: _READ},
    t.batches.name: {RUNTIME: _APPEND, AUDITOR: _READ},
    t.detached_partitions.name: {RUNTIME: _READ, AUDITOR: _READ},
    # Locking a row takes UPDATE on a column; a CHECK keeps its value.
    t.head.name: {RUNTIME: _READ | {"UPDATE (id)"}, AUDITOR: _READ},
}
"""The tables that nobody may change."""

TABLES: Mapping[str, Grants] = {
    **LOG,
    t.personal.name: {RUNTIME: _APPEND | {"DELETE"}},
    t.personal_index.name: {RUNTIME: _APPEND | {"DELETE"}},
    t.data_keys.name: {RUNTIME: _WRITE},
    t.wrapping_keys.name: {RUNTIME: _WRITE},
    t.destroyed_keys.name: {RUNTIME: _APPEND},
    t.erasures.name: {RUNTIME: _APPEND | {"UPDATE (completed_at)", "UPDATE (key_ids)"}, AUDITOR: _READ},
    t.legal_holds.name: {RUNTIME: _APPEND | {"DELETE"}},
    t.due_steps.name: {RUNTIME: _WRITE},
    t.limits.name: {RUNTIME: _WRITE, AUDITOR: _READ},
    t.incarnations.name: {RUNTIME: _APPEND, AUDITOR: _READ},
    t.consumers.name: {RUNTIME: _WRITE, AUDITOR: _READ},
    t.checkpoints.name: {RUNTIME: _WRITE, AUDITOR: _READ},
    **{table.name: {RUNTIME: _WRITE, AUDITOR: _READ} for table in registry.TABLES},
    **{table.name: {RUNTIME: _WRITE | {"TRUNCATE"}} for table in registry.SHADOWS},
    "alembic_version": {RUNTIME: _READ, AUDITOR: _READ},
}
"""Every table of a ledger."""

FUNCTIONS: Mapping[str, Grants] = {
    "ensure_partitions": {RUNTIME: _RUN},
    "first_id": {RUNTIME: _RUN, AUDITOR: _RUN},
    "unpartitioned_events": {RUNTIME: _RUN, AUDITOR: _RUN},
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

SCHEMA: Grants = {OWNER: frozenset({"CREATE", "USAGE"}), RUNTIME: frozenset({"USAGE"}), AUDITOR: frozenset({"USAGE"})}


def role_name(schema: str, role: str) -> str:
    """The name of this role of the ledger in `schema`; a long schema is cut and hashed."""
    name = f"{schema}_{role}"
    if len(name.encode()) <= _MAX_NAME:
        return name
    return f"{schema[:32]}_{sha256(schema.encode()).hexdigest()[:16]}_{role}"
