"""Personal data, as readers of the log get it."""

from collections.abc import Collection, Sequence
from typing import Protocol
from uuid import UUID

from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.recorded import RecordedEvent


class PersonalData(Protocol):
    """Opens what is sealed beside the log."""

    async def check_access(self) -> None:
        """Raise `ServiceError` unless this process has the key and its database user may read personal data."""
        ...

    async def opened(
        self,
        recorded: Sequence[RecordedEvent],
        purposes: Collection[Purpose] = tuple(Purpose),
        *,
        to_append: bool = False,
    ) -> list[RecordedEvent]:
        """These events with their personal values of `purposes` in clear. What was erased stays `Sealed`.

        With `to_append`, what sealing more events of these sessions needs is kept in memory.

        Raises `ServiceError`, `SealedEventBroken`.
        """
        ...

    async def subject_of(self, subject_id: str) -> bytes:
        """How the person with this `subjectId` is named in vault, index, holds and erasures. Raises `ServiceError`."""
        ...

    async def subject_in(self, stream_id: UUID) -> bytes | None:
        """The subject of a session; `None`: its contact data was erased. Raises `ServiceError`."""
        ...

    async def streams_of(self, subject: bytes) -> list[UUID]:
        """The sessions of a subject whose contact data is kept, oldest first. Raises `ServiceError`."""
        ...

    async def hashed(self, field: str, value: str) -> bytes:
        """The hash of a value under a key that only processes with the encryption key have.

        Raises `ServiceError`, and `InvalidRequest` for a value that is not text in UTF-8.
        """
        ...

    async def hashed_key(self, idempotency_key: str) -> str:
        """How a caller's key is stored. Raises `ServiceError` as `check_access` does."""
        ...

    async def hashes_of(self, guest: GuestFilter) -> GuestHashes:
        """What to look for in the index of guests. Raises `ServiceError` as `check_access` does."""
        ...
