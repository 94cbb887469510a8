"""Appends for tests, and the leaf hash computed from the published rules alone."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import rfc8785
from uuid_utils.compat import uuid7

from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.events import Event
from guestledger.engine.log.appends import Append, Lease, StepChanges
from tests.unit.samples import START, was_attempted, was_recorded, was_validated

HOUR_MS = 3_600_000


def new_id() -> UUID:
    return uuid7()


def an_append(
    stream_id: UUID | None = None,
    expected: int = 0,
    events: Sequence[Event] | None = None,
    *,
    steps: StepChanges | None = None,
    key: str | None = None,
    **given: Any,
) -> Append:
    """One event for `stream_id` (default: a new stream), unless others are given. Without `steps`, none change."""
    plain: dict[str, Any] = {"actor": "a test", "causation_id": uuid7(), "correlation_id": "a correlation"}
    return Append(
        stream_id=stream_id or uuid7(),
        expected_version=expected,
        events=tuple(events or (was_recorded(),)),
        steps=steps or StepChanges(),
        idempotency_key=key,
        **{**plain, **given},
    )


def some_events(number: int) -> tuple[Event, ...]:
    """This many events. Their content does not matter."""
    return (was_recorded(), was_validated(), was_attempted(), *(was_validated(),) * number)[:number]


def a_lease(owner: UUID | None = None, ms: int = HOUR_MS) -> Lease:
    return Lease(owner=owner or uuid4(), ms=ms)


def due(moment: datetime = START, step: StepName = StepName.CREATE_SESSION, lease: Lease | None = None) -> StepChanges:
    """`step` becomes due at `moment`. With `lease`, the append leases it; without, a lease on it stays as it is."""
    mine = frozenset[StepName]() if lease is None else frozenset({step})
    return StepChanges(due=(DueStep(step, moment),), mine=mine, lease=lease)


def leaf_of(row: asyncpg.Record) -> bytes:
    """The RFC 6962 leaf hash of a row of the log, from its columns, by the reference library for RFC 8785."""
    entry = {
        "stream_id": str(row["stream_id"]),
        "version": row["version"],
        "event_type": row["event_type"],
        "schema_version": row["schema_version"],
        "recorded_at": rfc3339(row["recorded_at"]),
        "correlation_id": row["correlation_id"],
        "causation_id": str(row["causation_id"]),
        "actor": row["actor"],
        "data": json.loads(row["data"]),
    }
    return hashlib.sha256(b"\x00" + rfc8785.dumps(entry)).digest()


def rfc3339(moment: datetime) -> str:
    """In UTC, with microseconds if there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
