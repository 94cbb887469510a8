"""The keys of personal data."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from guestledger.engine.domain.personal import Purpose

Hashing = Callable[[bytes], bytes]
"""A keyed hash."""

KEY_VAULT = "key vault"
"""The `service` of its errors."""


class SealBroken(Exception):
    """A box does not open with this key in this place, or its values do not fit their commitments."""


class DataKey(Protocol):
    """The key for the personal data of one subject and purpose."""

    @property
    def id(self) -> UUID:
        """Stored beside what it seals."""
        ...

    @property
    def subject(self) -> bytes:
        """Whose data it seals."""
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

    def propose(self, subject: bytes, purposes: Iterable[Purpose]) -> Sequence[Any]:
        """The rows with new keys of a subject that has none: to be stored with what they seal. None if the vault is elsewhere."""
        ...

    async def refresh(self) -> None:
        """Make the next proposals as the vault wants them now: its key-encryption key was rotated."""
        ...

    async def keys(self, ids: Collection[UUID]) -> Mapping[UUID, DataKey]:
        """These keys, without those that were destroyed."""
        ...

    async def keys_to_seal(self, ids: Collection[UUID]) -> Mapping[UUID, DataKey]:
        """As `keys`, perhaps with others of the same subjects. All of them are then `cached`."""
        ...

    @property
    def hashing(self) -> Hashing | None:
        """See `index_key`; `None`: it has not been fetched yet."""
        ...

    def cached(self, subject: bytes, purpose: Purpose) -> DataKey | None:
        """As `key_of`, if that needs no fetching."""
        ...

    async def index_key(self) -> Hashing:
        """The keyed hash of subjects, addresses and keys of callers, for look-ups."""
        ...

    async def check(self) -> None:
        """Raise unless keys can be made now. A vault in the ledger's own database is checked with that."""
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
