"""Personal data, as readers of the log get it."""

from collections.abc import Collection, Sequence
from typing import Protocol

from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.recorded import RecordedEvent


class PersonalData(Protocol):
    """Opens what is sealed beside the log."""

    async def check_access(self) -> None:
        """Raise `ServiceError` unless this process has the key and its database user may read personal data."""
        ...

    async def opened(
        self, recorded: Sequence[RecordedEvent], purposes: Collection[Purpose] = tuple(Purpose)
    ) -> list[RecordedEvent]:
        """These events with their personal values of `purposes` in clear. What was erased stays `Sealed`.

        Raises `ServiceError`, `SealedEventBroken`.
        """
        ...

    async def hashes_of(self, guest: GuestFilter) -> GuestHashes:
        """What to look for in the index of guests. Raises `ServiceError` as `check_access` does."""
        ...
