"""Recording what runs have come to, with the work that is due after it, and giving back what they hold."""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from itertools import count

from msgspec.structs import replace

from guestledger.engine.domain.commands import Defer, Record, RecordAttempt, RecordDelivery, RecordLookup
from guestledger.engine.domain.errors import ServiceError, ServiceUnreachable, WrongExpectedVersion
from guestledger.engine.domain.lifecycle import Policy, SyncWebhook, decide, ends_at, next_step
from guestledger.engine.domain.outcomes import Created
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.policy import AdmissionRequest, Feedback
from guestledger.engine.limits.retry import RetryPolicy, backoff_ms
from guestledger.engine.log.appends import Append, Due, Lease
from guestledger.engine.log.codec import wire_name
from guestledger.engine.ports import Clock, DueSteps, EventStore, RateLimiter
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.session_work import Run, of_history

logger = logging.getLogger("guestledger")

_BACKOFF = RetryPolicy(base_ms=200, cap_ms=1_000)
# How long an end waits for a database that is away, for the sake of answers that nobody has recorded.
_LAST_WAIT_SECONDS = 2.0
# How long work rests that is none by what is recorded.
NOTHING_DUE_REST = timedelta(days=1)


def due_after(state: Session, policy: Policy, *, lease: Lease | None = None, keep_lease: bool = False) -> Due | None:
    """The work that an append leaves behind which brings a session into `state`."""
    step = next_step(state, policy)
    if step is None:
        return None
    return Due(
        step=type(step).__name__,
        due_at=step.not_before,
        ends_at=ends_at(state, policy),
        lease=lease,
        keep_lease=keep_lease,
    )


class Recorder:
    """Records what has been decided, each append on the version that it was decided on."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_work: DueSteps,
        limiters: RateLimiter,
        clock: Clock,
        policy: Policy,
        leases: Leases,
    ) -> None:
        self._store = store
        self._due_work = due_work
        self._gates = limiters
        self._clock = clock
        self._policy = policy
        self._leases = leases
        self._untold: set[asyncio.Task[None]] = set()

    async def record(
        self, run: Run, *, hold: bool, passage: AdmissionRequest | None = None, hearing: Feedback | None = None
    ) -> None:
        """Record what the run has proposed, if anything. `hold` keeps its lease; without it, the session is free then.

        Raises `WrongExpectedVersion`, `AppendDenied` (by the limiter that `passage` names), and `ServiceError`.
        """
        if run.proposed:
            due = due_after(run.state, self._left_by(run), lease=run.lease if hold else None)
            await self._append(run, due, passage=passage, hearing=hearing)
            run.held = hold

    async def settle(
        self, run: Run, command: Record, hearing: Feedback | None, *, deferral: Defer | None = None
    ) -> None:
        """Record what came back, whatever has become of the stream since: an outcome is never dropped for a conflict.

        `deferral` is recorded with it, if what it waits for comes after the time that was chosen for the next try.
        Raises `WrongExpectedVersion` where there was one, and `ServiceError`: it is recorded then once the database is back.
        """
        run.propose(decide(run.state, command, self._policy))
        if deferral is not None and run.state.retry_at is not None and run.state.retry_at < deferral.held.until:
            run.propose(decide(run.state, deferral, self._policy))
        try:
            await self.record(run, hold=run.due(self._clock.now(), self._policy) is not None, hearing=hearing)
        except WrongExpectedVersion:
            await self.settle_late(run, command, hearing)
            raise
        except ServiceUnreachable:
            self._settle_once_back(run, command, hearing)
            raise

    async def give_back(self, run: Run) -> None:
        """Record what is left to be recorded and free the session for whoever takes the next step."""
        if run.proposed:
            await self.record(run, hold=False)
        elif run.held:
            step = next_step(run.state, self._policy)
            rest = step.not_before - self._clock.now() if step else NOTHING_DUE_REST
            delay_ms = max(0, -(-rest // timedelta(milliseconds=1)))
            # Another step may have been due where the row was written: the webhook has been switched on since. Left as it
            # was, the row would be claimed for that step without end.
            await self._due_work.release(run.lease.owner, run.state.id, delay_ms, type(step).__name__ if step else None)

    def _left_by(self, run: Run) -> Policy:
        """By what it goes which work the run leaves behind: a notice that was owed stays owed, though it is not sent from here."""
        owed = run.claim is not None and run.claim.step == SyncWebhook.__name__
        return replace(self._policy, webhook_enabled=True) if owed else self._policy

    async def let_go(self, run: Run, delay_ms: int) -> None:
        """Free the session after `delay_ms`, as it is recorded. Where that fails, the lease lapses by itself."""
        with suppress(ServiceError):
            await self._due_work.release(run.lease.owner, run.state.id, delay_ms)

    async def recorded(self, run: Run) -> Session:
        """The session as it is recorded, by whomever. Raises `ServiceError`."""
        return of_history(await self._store.read_stream(run.state.id))

    async def close(self) -> None:
        """Wait a moment for what is still to be recorded of what came back. To be called before the store is closed."""
        if self._untold:
            await asyncio.wait(self._untold, timeout=_LAST_WAIT_SECONDS)
        for task in self._untold:
            task.cancel()
        if self._untold:
            await asyncio.wait(self._untold)

    async def settle_late(self, run: Run, command: Record, hearing: Feedback | None) -> None:
        """Record what only this run knows, though others may have taken the session on by now. Raises as `settle` does."""
        try:
            await self._settle_anew(run, command, hearing)
        except ServiceUnreachable:
            self._settle_once_back(run, command, hearing)
            raise

    def _settle_once_back(self, run: Run, command: Record, hearing: Feedback | None) -> None:
        # Untold, the attempt would be in doubt and made again, though it is known here what came of it.
        task = asyncio.create_task(self._keep_settling(run, command, hearing))
        self._untold.add(task)
        task.add_done_callback(self._untold.discard)

    async def _keep_settling(self, run: Run, command: Record, hearing: Feedback | None) -> None:
        answer = _answer(command)
        for failures in count(1):
            try:
                await asyncio.sleep(backoff_ms(failures, _BACKOFF, self._clock.jitter()) / 1_000)
                await self._settle_anew(run, command, hearing)
            except ServiceUnreachable:
                continue
            except asyncio.CancelledError:
                logger.warning("session %s: %s is lost: the database was away to the end", run.state.id, answer)
                raise
            except Exception:
                logger.exception("session %s: %s could not be recorded", run.state.id, answer)
            return

    async def _settle_anew(self, run: Run, command: Record, hearing: Feedback | None) -> None:
        while True:
            history = await self._store.read_stream(run.state.id)
            if any(recorded.causation_id == run.unconfirmed_append_id for recorded in history):
                return  # it went in, though the database did not say so: again, it would tell of a second answer
            late = Run.of(history, run.kinds, run.actor, run.lease)
            late.propose(decide(late.state, command, self._policy))
            if not late.proposed:
                if hearing is not None:  # the history may have no need of it, but the API wants peace all the same
                    await self._gates.observe(hearing)
                logger.warning(
                    "session %s: %s came late and tells nothing new: it is not recorded",
                    late.state.id,
                    _answer(command),
                )
                return
            with suppress(WrongExpectedVersion):
                try:
                    await self._append(late, due_after(late.state, self._policy, keep_lease=True), hearing=hearing)
                finally:
                    run.unconfirmed_append_id = late.unconfirmed_append_id
                run.tally.update(late.tally)
                return

    async def _append(
        self, run: Run, due: Due | None, *, passage: AdmissionRequest | None = None, hearing: Feedback | None = None
    ) -> None:
        asked_at, run.unconfirmed_append_id = self._leases.now(), self._clock.new_id()
        appended = await self._store.append(
            Append(
                stream_id=run.state.id,
                expected_version=run.recorded,
                events=tuple(run.proposed),
                due=due,
                actor=run.actor,
                causation_id=run.unconfirmed_append_id,
                correlation_id=run.correlation_id,
                idempotency_key=None if run.recorded else run.idempotency_key,
                passage=passage,
                hearing=hearing,
            )
        )
        if due is not None and due.lease is not None:
            self._leases.renewed(run.lease, run.state.id, asked_at)
        run.recorded, run.recorded_at, run.unconfirmed_append_id = appended.version, appended.at, None
        run.tally.update(map(wire_name, run.proposed))
        run.proposed = []


def _answer(command: Record) -> str:
    """What came back, in words."""
    match command:
        case RecordAttempt(outcome=Created() as outcome):
            return f"the answer to attempt {command.attempt} (created {outcome.session_id})"
        case RecordAttempt():
            return f"the answer to attempt {command.attempt} ({type(command.outcome).__name__.lower()})"
        case RecordLookup():
            return f"the answer to its channel look-up ({type(command.outcome).__name__.lower()})"
        case RecordDelivery(outcome=outcome):
            return f"the webhook's answer ({f'HTTP {outcome.status}' if outcome.status else 'no answer'})"
