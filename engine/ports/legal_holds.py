"""Legal holds on subjects."""

from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec


class LegalHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold on a subject, for all its sessions, also those that begin later."""

    placed_at: datetime
    placed_by: str
    reason: str


class LegalHolds(Protocol):
    """A subject is named by its keyed hash. All methods raise `ServiceError`."""

    async def place(self, subject: bytes, hold: LegalHold) -> LegalHold:
        """Place a hold, unless there is one. Returns the one there is.

        Raises `HoldRefused` while the subject, or a session of it, is being erased.
        """
        ...

    async def release(self, subject: bytes) -> bool:
        """Release the hold. Returns whether there was one."""
        ...

    async def of(self, subject: bytes) -> LegalHold | None:
        """The hold on a subject."""
        ...

    async def all(self) -> list[LegalHold]:
        """The holds on subjects, oldest first."""
        ...

    async def over(self, stream_id: UUID) -> LegalHold | None:
        """The hold on the subject of a session; `None` also if its contact data was erased."""
        ...
