"""The log as the leaves of a Merkle tree (RFC 6962): an event's position is its leaf's index."""

from datetime import datetime
from hashlib import sha256
from uuid import UUID

import msgspec


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    stream_id: UUID
    version: int
    event_type: str
    schema_version: int
    recorded_at: datetime
    correlation_id: str
    causation_id: UUID
    actor: str
    data: msgspec.Raw


_encoder = msgspec.json.Encoder(order="sorted")


def leaf_hash(
    *,
    stream_id: UUID,
    version: int,
    event_type: str,
    schema_version: int,
    recorded_at: datetime,
    correlation_id: str,
    causation_id: UUID,
    actor: str,
    data: str,
) -> bytes:
    """SHA-256(0x00 ‖ entry) of one recorded event (RFC 6962, section 2.1).

    The entry is the row as canonical JSON (RFC 8785) without position and hash; `data` as the object it is, `recorded_at`
    as RFC 3339 in UTC, with microseconds if there are any.
    """
    entry = _Entry(
        stream_id=stream_id,
        version=version,
        event_type=event_type,
        schema_version=schema_version,
        recorded_at=recorded_at,
        correlation_id=correlation_id,
        causation_id=causation_id,
        actor=actor,
        data=msgspec.Raw(data.encode()),
    )
    return sha256(b"\x00" + _encoder.encode(entry)).digest()
