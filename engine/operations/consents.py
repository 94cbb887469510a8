"""`ledger.consents`: consent records, and withdrawals from one session or from all sessions of a person."""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.commands import WithdrawConsent
from guestledger.engine.domain.errors import GuestledgerError, PartitionDetached
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Session
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.consent_record import ConsentRecord, consent_record
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.histories import Histories
from guestledger.engine.ports.personal_data import PersonalData


class Withdrawal(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a withdrawal."""

    session: Session
    """As it is now. Its `guest` is sealed."""
    recorded: bool
    """`False`: there was no such consent, or it was withdrawn before. Nothing was recorded."""


class _NothingToWithdraw(GuestledgerError):
    def __init__(self, session: Session) -> None:
        super().__init__("nothing to withdraw")
        self.session = session


class Consents:
    """What guests agreed to. Workers send the notices about withdrawals."""

    def __init__(self, *, personal: PersonalData, histories: Histories, decisions: Decisions) -> None:
        self._personal = personal
        self._histories = histories
        self._decisions = decisions

    async def record(self, session: UUID | str) -> ConsentRecord:
        """Return the session's consent record as of now (ISO/IEC TS 27560). Raises `SessionNotFound`."""
        return consent_record(await self._histories.find(session))

    async def withdraw(
        self, session: UUID | str, *, requested_by: str, reason: str | None = None, marketing_only: bool = False
    ) -> Withdrawal:
        """See `Ledger.withdraw`."""
        request = _Request(requested_by, reason, marketing_only=marketing_only)
        return await self._record(await self._histories.find(session), request)

    async def withdraw_all(
        self, subject_id: str, *, requested_by: str, reason: str | None = None, marketing_only: bool = False
    ) -> AsyncIterator[Withdrawal]:
        """Withdraw as `Ledger.withdraw` does in each session of a person, oldest first, and yield what came of it.

        Sessions whose contact data was erased are not found any more. If it is cut off, the next call does the rest. A
        session that cannot be read is left out; at the end, the `PartitionDetached` or `UnknownEvent` is raised.
        """
        request = _Request(requested_by, reason, marketing_only=marketing_only)
        left_out: GuestledgerError | None = None
        for stream_id in await self._personal.streams_of(await self._personal.subject_of(subject_id)):
            try:
                history = await self._histories.of_stream(stream_id)
            except (PartitionDetached, UnknownEvent) as error:
                left_out = left_out or error
                continue
            yield await self._record(history, request)
        if left_out is not None:
            raise left_out

    async def _record(self, history: list[RecordedEvent], request: "_Request") -> Withdrawal:
        try:
            session = await self._decisions.record(
                history, request.command, actor=request.requested_by, refused=_NothingToWithdraw
            )
        except _NothingToWithdraw as unchanged:
            return Withdrawal(session=unchanged.session, recorded=False)
        return Withdrawal(session=session, recorded=True)


class _Request:
    """Who wants what. Raises `InvalidRequest` for a text that cannot be stored."""

    def __init__(self, requested_by: str, reason: str | None, *, marketing_only: bool) -> None:
        self.requested_by = checked_text("requestedBy", requested_by)
        self._reason = None if reason is None else checked_text("reason", reason)
        self._marketing_only = marketing_only

    def command(self, now: datetime) -> WithdrawConsent:
        return WithdrawConsent(
            marketing_only=self._marketing_only, requested_by=self.requested_by, reason=self._reason, now=now
        )
