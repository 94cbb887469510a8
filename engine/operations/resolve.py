"""What a person decides about parked sessions: checked, and recorded with who decided it and why."""

import re
from datetime import UTC, datetime
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain.commands import Resolve
from guestledger.engine.domain.errors import InvalidRequest, ResolutionRefused
from guestledger.engine.domain.outcomes import Adoption, Resolution
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.log.appends import KeyTaken
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.ports import ReadModels

# Of those who adopt one remote session at once, the ledger's lock lets one in. No caller's key has such a character.
_ADOPTED = "adopted\x1f"
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


class Parking:
    """Takes sessions out of the parked state. Whoever works on the ledger goes on with those that are to be retried."""

    def __init__(self, *, decisions: Decisions, read_models: ReadModels) -> None:
        self._decisions = decisions
        self._read_models = read_models

    async def resolve(
        self, history: list[RecordedEvent], resolution: Resolution, *, decided_by: str, reason: str
    ) -> Session:
        """Record what was decided about the session with this history; the session as it is then.

        Raises `ResolutionRefused`, `InvalidRequest`, `ServiceError`.
        """
        decided_by, reason = checked_text("decidedBy", decided_by), checked_text("reason", reason)
        stream_id, key = history[0].stream_id, None
        if isinstance(resolution, Adoption):
            resolution = _checked(resolution)
            await self._see_that_it_is_free(stream_id, resolution.session_id)
            key = f"{_ADOPTED}{resolution.session_id}"

        def command(now: datetime) -> Resolve:
            return Resolve(resolution=resolution, decided_by=decided_by, reason=reason, now=now)

        try:
            return await self._decisions.record(history, command, actor=decided_by, refused=_not_parked, key=key)
        except KeyTaken as taken:
            raise _not_free(stream_id, taken.stream_id) from None

    async def _see_that_it_is_free(self, stream_id: UUID, session_id: str) -> None:
        await self._read_models.catch_up()
        holder = await self._read_models.stream_of(session_id)
        if holder is not None:
            raise _not_free(stream_id, holder)


def _not_free(stream_id: UUID, holder: UUID) -> ResolutionRefused:
    return ResolutionRefused(stream_id, f"the session id given is already that of session {holder}")


def _not_parked(state: Session) -> ResolutionRefused:
    why = f"it is {state.status}, and only a parked session waits for a person ({Status.PARKED} ones are listed by"
    return ResolutionRefused(state.id, f"{why} `guestledger sessions --status parked`)")


def _checked(found: Adoption) -> Adoption:
    """`found` with its time in UTC, once it can be stored. Raises `InvalidRequest`, which never quotes the token."""
    if found.expires_at.tzinfo is None:
        raise InvalidRequest("expiresAt", "has no offset from UTC")
    if found.guest_token is not None and not _TOKEN.fullmatch(found.guest_token):
        raise InvalidRequest("token", "is not one line of 1 to 16384 ASCII characters without blanks")
    return replace(
        found, session_id=checked_text("sessionId", found.session_id), expires_at=found.expires_at.astimezone(UTC)
    )
