"""Recording: appends for sessions at work, and late outcomes, which must not be lost."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from guestledger.engine.domain.commands import Command, NoteClockSetBack, RecordAttempt, RecordDelivery, RecordLookup
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.errors import ServiceError, ServiceUnreachable, SubjectErased, WrongExpectedVersion
from guestledger.engine.domain.events import Event, SessionCreated
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import Created
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.limits.feedback import Feedback
from guestledger.engine.log.appends import Append, Appended, KeyTaken, remote_key
from guestledger.engine.log.codec import wire_name
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.due_steps import DueSteps
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.session_work import SessionWork, session_of, step_changes
from guestledger.engine.worker.step import StepResult

logger = logging.getLogger("guestledger")

# How long `close` waits for the database, to record answers.
_LAST_WAIT_SECONDS = 2.0


def decide_all(state: Session, commands: Iterable[Command], policy: Policy) -> list[Event]:
    """The events of several commands, each decided on the state after those before it."""
    events: list[Event] = []
    decided: list[Event] = []
    for command in commands:
        state = evolve_all(state, decided)  # by the command before
        decided = decide(state, command, policy)
        events += decided
    return events


class Recorder:
    """Appends what was decided, on the version on which it was decided."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_steps: DueSteps,
        limiter: RateLimiter,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._store = store
        self._due_steps = due_steps
        self._limiter = limiter
        self._clock = clock
        self._policy = policy
        self._closed = False
        self._unrecorded: set[asyncio.Task[None]] = set()

    async def append(
        self,
        work: SessionWork,
        events: Sequence[Event] = (),
        *,
        mine: Iterable[StepName] = (),
        keep: bool,
        admission: AdmissionRequest | None = None,
        feedback: Feedback | None = None,
        append_id: UUID | None = None,
    ) -> Appended:
        """Record what is proposed, and `events`. With `keep`, the steps in `mine` stay leased; else they are free then.

        `append_id` is that of an earlier try, whose fate is unknown.

        Raises `WrongExpectedVersion`, `AppendDenied` (the work is then as before), `SubjectErased` and `ServiceError`.
        """
        after = evolve_all(work.state, events)
        before, events = work.recorded, (*work.proposed, *events)
        due = work.due_steps(self._policy) if after is work.state else due_steps(after, self._policy)
        asked_at, work.unconfirmed_append_id = Leases.now(), append_id or self._clock.new_id()
        lease = work.lease if keep else None
        append = Append(
            stream_id=after.id,
            expected_version=before.version,
            events=events,
            steps=step_changes(
                work.recorded_due_steps(self._policy),
                due,
                mine=mine,
                lease=lease,
                erased=after.contact_erased_at is not None,
            ),
            actor=work.actor,
            causation_id=work.unconfirmed_append_id,
            correlation_id=work.correlation_id,
            idempotency_key=_remote_key(events) if before.version else work.idempotency_key,
            admission=admission,
            feedback=feedback,
        )
        appended, after = await self._append_once(append, before, after)
        if work.claim is not None:
            work.start(appended.at)
        if keep:
            work.leased_at = asked_at
            if work.held is not None:
                work.held.renewed(asked_at)
        work.counts.update(map(wire_name, events))
        work.confirm(after, due)
        return appended

    async def _append_once(self, append: Append, before: Session, after: Session) -> tuple[Appended, Session]:
        """Append, and return the state after it: a remote session that another session has already is marked."""
        try:
            return await self._store.append(append), after
        except KeyTaken as taken:
            if not before.version:
                raise
            marked = tuple(
                replace(event, shared_with=taken.stream_id) if isinstance(event, SessionCreated) else event
                for event in append.events
            )
            logger.warning(
                "session %s: the provider gave it %r, which session %s has already: two guests share a conversation",
                *(after.id, after.session_id, taken.stream_id),
            )
            appended = await self._store.append(replace(append, events=marked, idempotency_key=None))
            return appended, evolve_all(before, marked)

    async def reload(self, work: SessionWork) -> Session:
        """The session as it is recorded. Raises `ServiceError`."""
        return session_of(await self._store.read_stream(work.state.id, reveal=True))

    async def follows_clock(self, work: SessionWork, step: StepName, now: datetime) -> bool:
        """Whether the clock was set back since the step's time was recorded: that is proposed. Raises `ServiceError`."""
        status = await self._due_steps.status(work.state.id)
        back_ms = next((row.back_ms for row in status.rows if row.step is step), None)
        if back_ms is None or status.version != work.state.version:
            return False
        work.propose(decide(work.state, NoteClockSetBack(back_ms=back_ms, now=now), self._policy))
        return True

    async def release(self, work: SessionWork, delay_ms: int = 0) -> None:
        """Release the session's steps; they are due after `delay_ms`. If that fails, the lease lapses."""
        with suppress(ServiceError):
            await self._due_steps.release(work.lease.owner, work.state.id, delay_ms)

    async def record_late(self, work: SessionWork, result: StepResult) -> None:
        """Record an outcome, whatever others have recorded since: it is never dropped for a conflict.

        Raises `ServiceError` and `SubjectErased`; it is then recorded once the database is back, or the guest erased.
        """
        try:
            await self._append_late(work, result)
        except (ServiceError, SubjectErased, asyncio.CancelledError):
            self.record_once_back(work, result)
            raise

    def record_once_back(self, work: SessionWork, result: StepResult) -> None:
        """Keep trying to record an outcome in the background."""
        if self._closed:
            logger.warning("session %s: %s is lost: the ledger is closed", work.state.id, _describe(result.commands))
            return
        task = asyncio.create_task(self._keep_trying(work, result))
        self._unrecorded.add(task)
        task.add_done_callback(self._unrecorded.discard)

    async def close(self) -> None:
        """Wait a moment for outcomes that are still to be recorded. Call it before the store is closed."""
        if self._unrecorded:
            await asyncio.wait(self._unrecorded, timeout=_LAST_WAIT_SECONDS)
        self._closed = True
        for task in self._unrecorded:
            task.cancel()
        if self._unrecorded:
            await asyncio.wait(self._unrecorded)

    async def _keep_trying(self, work: SessionWork, result: StepResult) -> None:
        answer = _describe(result.commands)
        retrying = AsyncRetrying(
            # An erasure that is under way ends the session: the outcome is then recorded without personal data.
            retry=retry_if_exception_type((ServiceUnreachable, SubjectErased)),
            wait=wait_random_exponential(multiplier=0.1, max=1),
        )
        try:
            await retrying(self._append_late, work, result)
        except asyncio.CancelledError:
            logger.warning("session %s: %s is lost: the database did not come back", work.state.id, answer)
            raise
        except Exception:
            logger.exception("session %s: %s could not be recorded", work.state.id, answer)

    async def _append_late(self, work: SessionWork, result: StepResult) -> None:
        # All tries of one outcome share an id. Any of them, and the append before them, may still be committed after it failed
        # here; and two tasks may try at once.
        append_id = work.unconfirmed_append_id = work.unconfirmed_append_id or self._clock.new_id()
        while True:
            history = await self._store.read_stream(work.state.id)
            if any(recorded.causation_id == append_id for recorded in history):
                return  # it was recorded, though the database did not answer
            late = SessionWork.of(history, actor=work.actor, lease=work.lease, claim=None)
            events = decide_all(late.state, result.commands, self._policy)
            if not events:
                await self._drop(late, result)
                return
            with suppress(WrongExpectedVersion):
                await self.append(late, events, keep=False, feedback=result.feedback, append_id=append_id)
                work.counts.update(late.counts)
                return

    async def _drop(self, late: SessionWork, result: StepResult) -> None:
        if result.feedback is not None:  # the API's wish for a pause counts all the same
            await self._limiter.observe(result.feedback)
        if is_outcome(result):
            logger.warning(
                "session %s: %s is late and changes nothing: not recorded", late.state.id, _describe(result.commands)
            )


def _remote_key(events: Iterable[Event]) -> str | None:
    return next((remote_key(event.session_id) for event in events if isinstance(event, SessionCreated)), None)


def has_effect(result: StepResult) -> bool:
    """Whether it came from a request that changes something outside."""
    return any(isinstance(command, RecordAttempt | RecordDelivery) for command in result.commands)


def is_outcome(result: StepResult) -> bool:
    """Whether something came back from outside."""
    return any(isinstance(command, RecordLookup | RecordAttempt | RecordDelivery) for command in result.commands)


def _describe(commands: Sequence[Command]) -> str:
    match commands:
        case [RecordAttempt(attempt=attempt, outcome=Created(session_id=session_id)), *_]:
            return f"the answer to attempt {attempt} (created {session_id})"
        case [RecordAttempt(attempt=attempt, outcome=outcome), *_]:
            return f"the answer to attempt {attempt} ({type(outcome).__name__.lower()})"
        case [RecordLookup(outcome=outcome), *_]:
            return f"the answer to its channel look-up ({type(outcome).__name__.lower()})"
        case [RecordDelivery(outcome=delivery), *_]:
            return f"the webhook's answer ({'no answer' if delivery.status is None else f'status {delivery.status}'})"
        case _:
            return "a decision"
