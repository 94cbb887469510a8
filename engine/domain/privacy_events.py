"""Events about personal data: withdrawal, retention, holds, erasure, looks."""

from datetime import datetime
from uuid import UUID

from guestledger.engine.domain.event import AccessEvent, SessionEvent
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.session import Status


class ConsentWithdrawn(SessionEvent, frozen=True, kw_only=True):
    """The guest withdrew the whole consent. Ends the session, and its guest token is erased."""

    erases = frozenset({Purpose.ACCESS})

    requested_by: str
    reason: str | None
    """`None`: none was given, and none is needed."""
    ended: Status
    """The status that it ended."""
    webhook_owed: bool
    """Whether the webhook's receiver has to know: the notice of the start was sent, or may have been on its way."""


class MarketingWithdrawn(SessionEvent, frozen=True, kw_only=True):
    """The guest withdrew the consent to marketing alone. The session goes on."""

    requested_by: str
    reason: str | None


class TokenPurged(SessionEvent, frozen=True, kw_only=True):
    """The sealed guest token was deleted: it has expired, or the retention of the session is over."""

    erases = frozenset({Purpose.ACCESS})


class ContactErased(SessionEvent, frozen=True, kw_only=True):
    """The retention was over: the sealed contact data was deleted, with its entries for look-ups."""

    erases = frozenset({Purpose.CONTACT})

    ended_at: datetime
    """When the session had ended."""
    retention_days: int
    """The policy that was followed."""


class LegalHoldPlaced(SessionEvent, frozen=True, kw_only=True):
    """A person had the contact data kept, whatever the retention says."""

    placed_by: str
    reason: str


class LegalHoldReleased(SessionEvent, frozen=True, kw_only=True):
    """A person ended the legal hold. The retention counts again, from the session's end."""

    released_by: str
    reason: str


class GuestErased(SessionEvent, frozen=True, kw_only=True):
    """The guest's personal data was erased from the session, in the append of this event."""

    erases = frozenset(Purpose)

    erased_by: str
    reason: str
    erasure: UUID
    """The erasure that it belongs to: its certificate lists all of them."""


class PersonalDataRevealed(AccessEvent, frozen=True, kw_only=True):
    """Personal data of these sessions is about to be shown in clear. Committed before it is.

    The events of one stream belong to one look: a long list is shown page by page.
    """

    revealed_by: str
    reason: str
    purposes: tuple[Purpose, ...]
    sessions: tuple[UUID, ...]
