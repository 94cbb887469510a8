"""How long personal data is kept: the guest token until it expires, contact data as the policy and legal holds say."""

from datetime import datetime, timedelta

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import EraseContact, PlaceHold, PurgeToken, ReleaseHold
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status


def token_outlived_at(state: Session) -> datetime | None:
    """Since when the guest token is of no more use; `None`: it still is, or there is none."""
    return state.expires_at if state.status is Status.EXPIRED and state.guest_token is not None else None


def erasure_due_at(state: Session, policy: Policy) -> datetime | None:
    """When the contact data has to be erased; `None`: not by itself, not before the end, or it is erased already."""
    if policy.retention_days is None or state.ended_at is None or state.held or state.contact_erased_at is not None:
        return None
    return state.ended_at + timedelta(days=policy.retention_days)


def purge_token(state: Session, command: PurgeToken) -> list[e.Event]:
    """`TokenPurged` once the token has expired. No legal hold keeps a credential."""
    return [] if token_outlived_at(state) is None else [_purged(state, command.now)]


def erase_contact(state: Session, command: EraseContact, policy: Policy) -> list[e.Event]:
    """`ContactErased` once the retention is over, with the guest token if there is still one."""
    due_at = erasure_due_at(state, policy)
    if due_at is None or command.now < due_at:
        return []
    assert state.ended_at is not None
    assert policy.retention_days is not None
    erased = e.ContactErased(
        at=command.now, channel_id=state.channel_id, ended_at=state.ended_at, retention_days=policy.retention_days
    )
    return [erased] if state.guest_token is None else [_purged(state, command.now), erased]


def place_hold(state: Session, command: PlaceHold) -> list[e.Event]:
    """`LegalHoldPlaced`; nothing if there is one already, or nothing left to hold."""
    if state.status is Status.NEW or state.held or state.contact_erased_at is not None:
        return []
    placed_by, reason = command.placed_by, command.reason
    return [e.LegalHoldPlaced(at=command.now, channel_id=state.channel_id, placed_by=placed_by, reason=reason)]


def release_hold(state: Session, command: ReleaseHold) -> list[e.Event]:
    """`LegalHoldReleased`; nothing if there is no hold."""
    if not state.held:
        return []
    by, reason = command.released_by, command.reason
    return [e.LegalHoldReleased(at=command.now, channel_id=state.channel_id, released_by=by, reason=reason)]


def _purged(state: Session, now: datetime) -> e.Event:
    return e.TokenPurged(at=now, channel_id=state.channel_id)
