"""A found session as JSON."""

from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.session import Status
from guestledger.engine.ports.session_finder import FoundSession


class FoundForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session, and its event nearest to the time asked for; without a time, its last one. Times are UTC."""

    id: UUID
    session_id: str | None
    """The provider's."""
    status: Status
    channel_id: str
    opened_at: datetime
    event: str
    version: int
    recorded_at: datetime
    """When the event was recorded."""
    around: datetime | None
    """The time asked for."""
    cause: str | None
    """Why the session is not active."""
    detail: str | None


def found_form(one: FoundSession, around: datetime | None) -> FoundForm:
    """Return a found session as JSON has it."""
    row = one.session
    return FoundForm(
        id=row.id,
        session_id=row.session_id,
        status=row.status,
        channel_id=row.channel_id,
        opened_at=row.opened_at,
        event=one.event,
        version=one.version,
        recorded_at=one.recorded_at,
        around=around,
        cause=row.cause,
        detail=row.detail,
    )
