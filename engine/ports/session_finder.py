"""Finding sessions by what a complaint says: about when, from whom, on which channel."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.session import Status
from guestledger.engine.projections.sessions import SessionRow

MAX_OF_GUEST = 10_000
"""So many sessions of one guest are searched: the newest."""


class FindFilter(Guarded, frozen=True, kw_only=True):
    """Which sessions to find: all that is given must match. One of the selective fields is needed, or `around`.

    Selective are `guest`, `session` and `idempotency_key`. Raises `ValueError` without any of them, for a correlation id
    without `around`, and for a time that is out of range.
    """

    around: datetime | None = None
    """Something was recorded around this time (UTC, the database's clock)."""
    within: timedelta = timedelta(minutes=10)
    """How far from `around`."""
    guest: GuestFilter = GuestFilter()
    session: str | None = None
    """The engine's id or the provider's."""
    idempotency_key: Personal | None = None
    """The caller's key, as in the request."""
    correlation_id: str | None = None
    channel_id: str | None = None
    statuses: tuple[Status, ...] = ()
    """The status now."""
    limit: int = 20
    """At most this many."""

    def __post_init__(self) -> None:
        selective = self.guest or self.session is not None or self.idempotency_key is not None
        if self.around is None and not selective:
            raise ValueError("give a time, a guest, a session or an idempotency key")
        if self.around is None and self.correlation_id is not None:
            raise ValueError("a correlation id needs a time: the log has no index of them")
        if self.within <= timedelta():
            raise ValueError("the distance from the time must be longer than 0 s")
        try:
            _ = self.since, self.until
        except OverflowError:
            raise ValueError("the time is not within the years 1 to 9999") from None

    @property
    def since(self) -> datetime | None:
        """The earliest matching time."""
        return None if self.around is None else self.around - self.within

    @property
    def until(self) -> datetime | None:
        """The latest matching time."""
        return None if self.around is None else self.around + self.within


class FoundSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session, and its event nearest to the time asked for; without a time, its last one. No personal data."""

    session: SessionRow
    event: str
    """Its wire name, such as `CreationThrottled`."""
    version: int
    recorded_at: datetime


class Span(NamedTuple):
    """A part of the log: the positions behind `after`, up to and including `upto`."""

    after: int
    upto: int


class SessionFinder(Protocol):
    """Looks sessions up by indexes. All methods raise `ServiceError`."""

    async def span(self, since: datetime, until: datetime) -> Span:
        """What was recorded from `since` to `until`, both included."""
        ...

    async def near(self, wanted: FindFilter, ids: Collection[UUID] | None, span: Span | None) -> list[FoundSession]:
        """The sessions with an event in `span` (`None`: the whole log), nearest to `wanted.around` first, else newest first.

        `ids` (`None`: any) stands for the selective fields of `wanted`.
        """
        ...

    async def of_guest(self, guest: GuestHashes) -> list[UUID]:
        """The newest sessions of a guest, at most `MAX_OF_GUEST`."""
        ...

    async def of_key(self, key: str) -> UUID | None:
        """The session of a request's key, as it is stored."""
        ...
