"""What a person decides about one session: judged by how the session stands, and recorded with what is due after it."""

from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.errors import GuestledgerError, WrongExpectedVersion
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.lifecycle import Policy, decide
from guestledger.engine.domain.session import Session, evolve
from guestledger.engine.log.appends import Append, KeyTaken
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports import Clock, EventStore
from guestledger.engine.worker.recorder import due_after
from guestledger.engine.worker.session_work import of_history


class Decisions:
    """Records decisions. They are carried out by whoever works on the ledger."""

    def __init__(self, *, store: EventStore, clock: Clock, policy: Policy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def record(
        self,
        history: list[RecordedEvent],
        command: Callable[[datetime], Command],
        *,
        actor: str,
        refused: Callable[[Session], GuestledgerError],
        key: str | None = None,
    ) -> Session:
        """Record what `command` (of a time) comes to for the session with this history; the session as it is then.

        Where others were quicker, the session is judged anew. Raises what `refused` says of a session for which nothing is
        to be recorded, `KeyTaken` where another session's decision has gone in under `key`, and `ServiceError`.
        """
        stream_id, correlation_id = history[0].stream_id, history[0].correlation_id
        while True:
            state = of_history(history)
            decided = decide(state, command(self._clock.now()), self._policy)
            if not decided:
                raise refused(state)
            try:
                return await self._append(state, decided, actor, correlation_id, key)
            except (WrongExpectedVersion, KeyTaken) as quicker:
                if quicker.stream_id != stream_id:
                    raise
                history = await self._store.read_stream(stream_id)

    async def _append(
        self, state: Session, decided: list[Event], actor: str, correlation_id: str, key: str | None
    ) -> Session:
        after = state
        for event in decided:
            after = evolve(after, event)
        await self._store.append(
            Append(
                stream_id=state.id,
                expected_version=state.version,
                events=tuple(decided),
                # Whoever works on the session right now keeps it: that one learns of the decision by its next append.
                # Whether there is a webhook, the workers know; those without one record the token's end all the same.
                due=due_after(after, replace(self._policy, webhook_enabled=True), keep_lease=True),
                actor=actor,
                causation_id=self._clock.new_id(),
                correlation_id=correlation_id,
                idempotency_key=key,
            )
        )
        return after
