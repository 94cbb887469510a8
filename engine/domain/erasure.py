"""Erasing the guest's personal data from a session."""

from datetime import datetime

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import EraseGuest
from guestledger.engine.domain.doubt import unanswered
from guestledger.engine.domain.session import Session, Status, WebhookNotice


def erase_guest(state: Session, command: EraseGuest) -> list[e.Event]:
    """`GuestErased`, after the end of everything that would need the data; nothing if they are erased already."""
    if state.status is Status.NEW or state.erased_at is not None:
        return []
    erased = e.GuestErased(
        at=command.now,
        channel_id=state.channel_id,
        erased_by=command.erased_by,
        reason=command.reason,
        erasure=command.erasure,
    )
    return [*_session_ended(state, command.now), *_webhook_ended(state, command.now), erased]


def _session_ended(state: Session, now: datetime) -> list[e.Event]:
    if state.status.is_settled:
        return []
    ended = e.SessionAbandoned(at=now, channel_id=state.channel_id, cause=Cause.GUEST_ERASED, attempts=state.attempts)
    if state.status is not Status.ATTEMPTING:
        return [ended]
    # The attempt may still make a remote session.
    return [unanswered(state, Cause.GUEST_ERASED, "", now), ended]


def _webhook_ended(state: Session, now: datetime) -> list[e.Event]:
    """The notice of a start holds the fingerprint; that of a withdrawal holds nothing personal, and stays owed."""
    if not state.webhook_owed or state.notice is not WebhookNotice.SESSION_STARTED:
        return []
    return [
        e.WebhookAbandoned(
            at=now,
            channel_id=state.channel_id,
            notice=state.notice,
            attempts=state.webhook_attempts,
            cause=Cause.GUEST_ERASED,
            status=None,
            detail="",
        )
    ]
