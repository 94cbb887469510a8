"""A person's decision about a parked session."""

import re
from datetime import UTC, datetime
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain.commands import Resolve
from guestledger.engine.domain.errors import InvalidRequest, ResolutionRefused
from guestledger.engine.domain.expiry import is_possible_expiry
from guestledger.engine.domain.outcomes import Adoption, Resolution
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.log.appends import KeyTaken, remote_key
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.ports.read_models import ReadModels

_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


class Resolver:
    """Takes sessions out of the parked state."""

    def __init__(self, *, decisions: Decisions, read_models: ReadModels) -> None:
        self._decisions = decisions
        self._read_models = read_models

    async def resolve(
        self,
        history: list[RecordedEvent],
        resolution: Resolution,
        *,
        decided_by: str,
        reason: str,
        expected_version: int | None = None,
    ) -> Session:
        """See `Ledger.resolve`."""
        decided_by, reason = checked_text("decidedBy", decided_by), checked_text("reason", reason)
        stream_id, key = history[0].stream_id, None
        if isinstance(resolution, Adoption):
            resolution = _checked(resolution)
            await self._check_free(stream_id, resolution.session_id)
            key = remote_key(resolution.session_id)

        def command(now: datetime) -> Resolve:
            if isinstance(resolution, Adoption) and not is_possible_expiry(resolution.expires_at, now):
                raise InvalidRequest("expiresAt", "is not a time from 2000 to a hundred years from now")
            return Resolve(resolution=resolution, decided_by=decided_by, reason=reason, now=now)

        def refused(state: Session) -> ResolutionRefused:
            return ResolutionRefused(state.id, status=state.status)

        try:
            return await self._decisions.record(
                history, command, actor=decided_by, refused=refused, key=key, expected_version=expected_version
            )
        except KeyTaken as taken:
            raise ResolutionRefused(stream_id, status=Status.PARKED, holder=taken.stream_id) from None

    async def _check_free(self, stream_id: UUID, session_id: str) -> None:
        await self._read_models.catch_up()
        if holders := await self._read_models.streams_of(session_id):
            raise ResolutionRefused(stream_id, status=Status.PARKED, holder=holders[0])


def _checked(found: Adoption) -> Adoption:
    """`found` with its time in UTC. Raises `InvalidRequest`, which never quotes the token."""
    if found.expires_at.tzinfo is None:
        raise InvalidRequest("expiresAt", "has no offset from UTC")
    if found.guest_token is not None and not _TOKEN.fullmatch(found.guest_token):
        raise InvalidRequest("token", "is not one line of 1 to 16384 ASCII characters without blanks")
    session_id = checked_text("sessionId", found.session_id)
    return replace(found, session_id=session_id, expires_at=found.expires_at.astimezone(UTC))
