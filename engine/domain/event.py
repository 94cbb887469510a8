"""What all events have in common."""

from datetime import datetime
from typing import ClassVar

from guestledger.engine.domain.personal import Guarded, Purpose


class Event(Guarded, frozen=True, kw_only=True):
    """What happened. `at` is the engine's time; the store adds when it was recorded.

    A stream holds either `SessionEvent`s, of one session, or `AccessEvent`s, of one look at personal data.
    """

    schema_version: ClassVar[int] = 1
    purpose: ClassVar[Purpose | None] = None
    """Why its personal fields are kept; `None`: it has none."""
    uses: ClassVar[Purpose | None] = None
    """Personal data of this purpose is about to be used: it is not recorded once the erasure of that has begun."""
    erases: ClassVar[frozenset[Purpose]] = frozenset()
    """The purposes of which its append deletes all personal data of the stream."""

    at: datetime


class SessionEvent(Event, frozen=True, kw_only=True):
    """What happened in one session."""

    channel_id: str


class AccessEvent(Event, frozen=True, kw_only=True):
    """What somebody did with personal data. It changes no session, and no projection takes it in."""
