"""A session that was opened, as JSON."""

from datetime import datetime
from uuid import UUID

from guestledger.engine.domain.personal import Guarded, Personal, clear
from guestledger.engine.domain.session import Session, Status


class OpenedForm(Guarded, frozen=True, kw_only=True, rename="camel"):
    """A session that was opened or accepted. Times are UTC. `cause` and `detail` say why it is not active."""

    id: UUID
    status: Status
    channel_id: str
    session_id: str | None
    """The provider's."""
    expires_at: datetime | None
    latency_ms: int | None
    retry_at: datetime | None
    """When a worker continues, if it is not settled."""
    cause: str | None
    detail: str | None
    token: Personal | None
    """The guest's token, if it was asked for."""


def opened_form(session: Session, *, token: bool) -> OpenedForm:
    """Return what its opening came to. `token`: with the guest's token."""
    return OpenedForm(
        id=session.id,
        status=session.status,
        channel_id=session.channel_id,
        session_id=session.session_id,
        expires_at=session.expires_at,
        latency_ms=session.latency_ms,
        retry_at=None if session.status.is_settled else session.retry_at,
        cause=session.cause,
        detail=session.detail,
        token=clear(session.guest_token) if token else None,
    )
