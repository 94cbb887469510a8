"""The keys with which programs and people use the HTTP API."""

from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from guestledger.engine.domain.personal import Guarded, PersonalBytes


class Role(StrEnum):
    """What the holder of an access key may do."""

    OPERATOR = "operator"
    """Opens sessions, reads, resolves, redelivers, withdraws, resets limits."""
    AUDITOR = "auditor"
    """Reads everything except personal data."""
    PRIVACY = "privacy"
    """Reads, reveals, exports, erases, holds and withdraws."""


class AccessKey(Guarded, frozen=True, kw_only=True):
    """An access key, without its secret. Times are UTC."""

    id: UUID
    name: str
    """What its holder is called in the history: the actor of events, and who looked at personal data."""
    role: Role
    digest: PersonalBytes
    """SHA-256 of the secret."""
    created_at: datetime
    created_by: str
    revoked_at: datetime | None = None


class AccessKeys(Protocol):
    """Stores access keys. None is ever deleted: the history names them."""

    async def add(self, key: AccessKey) -> None:
        """Store a new key."""
        ...

    async def list(self) -> list[AccessKey]:
        """Return all keys, oldest first, the revoked ones too."""
        ...

    async def revoke(self, key: UUID, at: datetime) -> bool:
        """Revoke a key. False: there is no such key, or it was revoked before."""
        ...
