"""What a person decides about parked sessions: checked, and recorded with who decided it and why."""

import re
from datetime import UTC
from uuid import UUID

from msgspec.structs import replace

from engine.domain.commands import Resolve
from engine.domain.errors import InvalidRequest, ResolutionRefused, WrongExpectedVersion
from engine.domain.lifecycle import Policy, decide, next_step
from engine.domain.outcomes import Adoption, Resolution
from engine.domain.recorded import RecordedEvent
from engine.domain.request import checked_text
from engine.domain.session import Session, Status, evolve, fold
from engine.ports import Append, Clock, Due, EventStore, ReadModels

_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


class Parking:
    """Takes sessions out of the parked state. Whoever works on the ledger goes on with those that are to be retried."""

    def __init__(self, *, store: EventStore, read_models: ReadModels, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._read_models = read_models
        self._clock = clock
        self._policy = policy

    async def resolve(
        self, history: list[RecordedEvent], resolution: Resolution, *, decided_by: str, reason: str
    ) -> Session:
        """Record what was decided about the session with this history; the session as it is then.

        Raises `ResolutionRefused`, `InvalidRequest`, `ServiceError`.
        """
        decided_by, reason = checked_text("decidedBy", decided_by), checked_text("reason", reason)
        stream_id, correlation_id = history[0].stream_id, history[0].correlation_id
        if isinstance(resolution, Adoption):
            resolution = _checked(resolution)
            await self._see_that_it_is_free(stream_id, resolution.session_id)
        while True:
            state = fold(stream_id, (recorded.event for recorded in history))
            command = Resolve(resolution=resolution, decided_by=decided_by, reason=reason, now=self._clock.now())
            try:
                return await self._record(state, command, correlation_id)
            except WrongExpectedVersion:
                # A late answer came first, or somebody else's decision.
                history = await self._store.read_stream(stream_id)

    async def _see_that_it_is_free(self, stream_id: UUID, session_id: str) -> None:
        await self._read_models.catch_up()
        holder = await self._read_models.stream_of(session_id)
        if holder is not None:
            raise ResolutionRefused(stream_id, f"the session id given is already that of session {holder}")

    async def _record(self, state: Session, command: Resolve, correlation_id: str) -> Session:
        decided = decide(state, command, self._policy)
        if not decided:
            why = f"it is {state.status}, and only a parked session waits for a person ({Status.PARKED} ones are listed by"
            raise ResolutionRefused(state.id, f"{why} `guestledger sessions --status parked`)")
        after = state
        for event in decided:
            after = evolve(after, event)
        step = next_step(after, self._policy)
        await self._store.append(
            Append(
                stream_id=state.id,
                expected_version=state.version,
                events=tuple(decided),
                due=Due(step=type(step).__name__, due_at=step.not_before, keep_lease=True) if step else None,
                actor=command.decided_by,
                causation_id=self._clock.new_id(),
                correlation_id=correlation_id,
            )
        )
        return after


def _checked(found: Adoption) -> Adoption:
    """`found` with its time in UTC, once it can be stored. Raises `InvalidRequest`, which never quotes the token."""
    if found.expires_at.tzinfo is None:
        raise InvalidRequest("expiresAt", "has no offset from UTC")
    if found.guest_token is not None and not _TOKEN.fullmatch(found.guest_token):
        raise InvalidRequest("token", "is not one line of 1 to 16384 ASCII characters without blanks")
    return replace(
        found, session_id=checked_text("sessionId", found.session_id), expires_at=found.expires_at.astimezone(UTC)
    )
