"""The keys of personal data."""

from collections.abc import Collection, Mapping
from typing import Protocol
from uuid import UUID

from guestledger.engine.domain.personal import Purpose


class SealBroken(Exception):
    """A box does not open with this key in this place, or its values do not fit their commitments."""


class DataKey(Protocol):
    """The key for the personal data of one subject and purpose."""

    @property
    def id(self) -> UUID:
        """Stored beside what it seals."""
        ...

    def seal(self, values: Mapping[str, str], place: bytes) -> tuple[bytes, dict[str, str]]:
        """The box with `values`, and the commitment to each. `place` is authenticated: the box opens there only."""
        ...

    def open(self, box: bytes, place: bytes, commitments: Mapping[str, str]) -> dict[str, str]:
        """The values in `box`, each checked against its commitment. Raises `SealBroken`."""
        ...


class KeyVault(Protocol):
    """Makes, keeps and destroys data keys. All methods raise `ServiceError` if it cannot be used."""

    async def key_of(self, subject: bytes, purpose: Purpose) -> DataKey:
        """The key of a subject and purpose; a new one if there is none."""
        ...

    async def keys(self, ids: Collection[UUID]) -> Mapping[UUID, DataKey]:
        """These keys, without those that were destroyed."""
        ...

    async def index_key(self) -> bytes:
        """The secret under which subjects, addresses and keys of callers are hashed for look-ups."""
        ...

    async def ids(self, subject: bytes, purpose: Purpose | None = None) -> list[UUID]:
        """The ids of the subject's keys: of all purposes, or one."""
        ...

    async def destroy(self, ids: Collection[UUID]) -> None:
        """Destroy these keys, as far as there are any.

        See to it before that nothing is sealed under them any more: other processes may have them in memory.
        """
        ...

    def forget(self, ids: Collection[UUID]) -> None:
        """Drop the copies of these keys in this process's memory: it asks for the present ones again."""
        ...
