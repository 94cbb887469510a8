"""The rows that a batch of appends writes. Their fields are columns of their tables."""

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from guestledger.engine.domain.due import StepName


class EventRow(Struct, frozen=True, gc=False):
    """A row of `events`; the time of recording is the batch's."""

    stream_id: UUID
    version: int
    position: int
    event_type: str
    schema_version: int
    correlation_id: str
    causation_id: UUID
    actor: str
    data: str
    leaf_hash: bytes


class RequestKeyRow(Struct, frozen=True, gc=False):
    """A row of `request_keys`."""

    idempotency_key: str
    stream_id: UUID


class Moved(Struct, frozen=True, gc=False):
    """A row of `due_steps` whose lease stays as it is."""

    stream_id: UUID
    step: StepName
    due_at: datetime
    back_ms: int | None


class Leased(Struct, frozen=True, gc=False):
    """A row of `due_steps` with its lease, or without one."""

    stream_id: UUID
    step: StepName
    due_at: datetime
    back_ms: int | None
    owner: UUID | None
    lease_until: datetime | None
