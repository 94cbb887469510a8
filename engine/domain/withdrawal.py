"""Withdrawing consent: as easy as giving it, and possible at any time."""

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import WithdrawConsent
from guestledger.engine.domain.doubt import unanswered
from guestledger.engine.domain.session import Session, Status


def withdraw(state: Session, command: WithdrawConsent) -> list[e.Event]:
    """End the session, or the consent to marketing alone; nothing if there is no such consent (any more)."""
    if state.consent is None or state.status is Status.WITHDRAWN:
        return []
    now, channel_id, requested_by, reason = command.now, state.channel_id, command.requested_by, command.reason
    if command.marketing_only:
        if not state.consent.marketing:
            return []
        return [e.MarketingWithdrawn(at=now, channel_id=channel_id, requested_by=requested_by, reason=reason)]
    under_way = state.status is Status.ATTEMPTING
    return [
        # Its answer may still bring a remote session. Until then lists show the doubt.
        *([unanswered(state, Cause.CONSENT_WITHDRAWN, "", now)] if under_way else []),
        e.ConsentWithdrawn(
            at=now,
            channel_id=channel_id,
            requested_by=requested_by,
            reason=reason,
            ended=Status.IN_DOUBT if under_way else state.status,
            # A call whose answer was lost may have arrived, and one may be under way now, also one that an erasure overtook.
            webhook_owed=state.webhook_owed or state.webhook_attempts > 0 or state.webhook_erased,
        ),
    ]
