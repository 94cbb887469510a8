"""The lists of sessions and of audit entries."""

from collections.abc import AsyncIterator

from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.operations.reveal import PAGE, Look, pages
from guestledger.engine.ports.personal_data import PersonalData
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow


class Lists:
    """Reads the lists, with everything committed before the call."""

    def __init__(self, *, read_models: ReadModels, personal: PersonalData) -> None:
        self._read_models = read_models
        self._personal = personal

    async def sessions(self, wanted: SessionFilter) -> AsyncIterator[SessionRow]:
        """See `Ledger.sessions`."""
        guest = await self._guest(wanted.guest)
        await self._read_models.catch_up()
        async for row in self._read_models.sessions(wanted, guest):
            yield row

    async def audit(self, wanted: AuditFilter, look: Look | None) -> AsyncIterator[AuditEntry]:
        """See `Ledger.audit`. With `look`, each entry has its guest."""
        guest = await self._guest(wanted.guest)
        await self._read_models.catch_up()
        entries = self._read_models.audit(wanted, guest)
        if look is None:
            async for entry in entries:
                yield entry
            return
        async for page in pages(entries, PAGE):
            for entry in await look.entries(page):
                yield entry

    async def _guest(self, wanted: GuestFilter) -> GuestHashes | None:
        return await self._personal.hashes_of(wanted) if wanted else None
