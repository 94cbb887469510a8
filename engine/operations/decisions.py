"""Recording a person's decision about one session."""

from collections.abc import Callable
from datetime import datetime

from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.due import due_steps
from guestledger.engine.domain.errors import GuestledgerError, WrongExpectedVersion
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import Append, KeyTaken
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.worker.session_work import session_of, step_changes


class Decisions:
    """Records decisions. Workers carry them out."""

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
        expected_version: int | None = None,
    ) -> Session:
        """Record the events of `command` (of a time). Returns the session after them.

        If the session moved on meanwhile, it is judged again. Raises `WrongExpectedVersion` if it is not at
        `expected_version`, what `refused` returns if there are no events,
        `KeyTaken` if another session has the `key`, and `ServiceError`.
        """
        stream_id = history[0].stream_id
        while True:
            state = session_of(history)
            if expected_version not in (None, state.version):
                raise WrongExpectedVersion(stream_id, expected_version, state.version)
            decided = decide(state, command(self._clock.now()), self._policy)
            if not decided:
                raise refused(state)
            after = evolve_all(state, decided)
            try:
                await self._store.append(
                    Append(
                        stream_id=stream_id,
                        expected_version=state.version,
                        events=tuple(decided),
                        # A worker on the session keeps its lease: its next append meets the decision.
                        steps=step_changes(
                            due_steps(state, self._policy),
                            due_steps(after, self._policy),
                            erased=after.contact_erased_at is not None,
                        ),
                        actor=actor,
                        causation_id=self._clock.new_id(),
                        correlation_id=history[0].correlation_id,
                        idempotency_key=key,
                    )
                )
            except (WrongExpectedVersion, KeyTaken) as conflict:
                if conflict.stream_id != stream_id:
                    raise
                history = await self._store.read_stream(stream_id)
            else:
                return after
