"""The ledger: what an embedder holds."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from copy import copy
from datetime import timedelta
from typing import NoReturn
from uuid import UUID

from guestledger.engine.domain.commands import OpenSession
from guestledger.engine.domain.errors import (
    IdempotencyConflict,
    PartitionDetached,
    ProjectionStopped,
    ServiceError,
    SessionNotFound,
)
from guestledger.engine.domain.lifecycle import Policy, decide
from guestledger.engine.domain.outcomes import Resolution
from guestledger.engine.domain.request import GuestRequest, checked, checked_correlation_id, request_digest
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.limiter import LimiterState
from guestledger.engine.log.appends import KeyTaken, Lease
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent, month_of
from guestledger.engine.operations.consume import Consumer, ConsumerOptions, Handler
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.expiring import expiring_in, expiry_warnings
from guestledger.engine.operations.explain import STEPS, Explainer, Explanation
from guestledger.engine.operations.health import Health, health
from guestledger.engine.operations.redeliver import DeadLetter, Webhooks
from guestledger.engine.operations.replay import Frame, replay
from guestledger.engine.operations.resolve import Parking
from guestledger.engine.operations.tail import tail
from guestledger.engine.ports import (
    Clock,
    ConsumerCheckpoints,
    ConsumerRow,
    DueSteps,
    EventStore,
    Partition,
    Partitions,
    Provider,
    RateLimiter,
    ReadModels,
)
from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import Metrics, MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.projections.status import ProjectionStatus, Verification
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.scheduler import Scheduler
from guestledger.engine.worker.session_work import TOWARDS_CREATION, Run, StepKinds, of_history
from guestledger.engine.worker.steps import Steps

logger = logging.getLogger("guestledger")


class Ledger:
    """Opens guest sessions, and tells what happened in every one of them."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_work: DueSteps,
        consumers: ConsumerCheckpoints,
        months: Partitions,
        read_models: ReadModels,
        provider: Provider,
        limiters: RateLimiter,
        steps: Steps,
        scheduler: Scheduler,
        leases: Leases,
        lease: Lease,
        clock: Clock,
        policy: Policy,
    ) -> None:
        self.scheduler = scheduler
        self._store = store
        self._due_work = due_work
        self._consumers = consumers
        self._months = months
        self._read_models = read_models
        self._provider = provider
        self._steps = steps
        self._leases = leases
        self._clock = clock
        self._policy = policy
        self._lease = lease
        self._actor = f"open_session {lease.owner}"
        decisions = Decisions(store=store, clock=clock, policy=policy)
        self._parking = Parking(decisions=decisions, read_models=read_models)
        self._webhooks = Webhooks(store=store, decisions=decisions, policy=policy)
        self._gates = limiters
        self._waits = Explainer(store=store, due_work=due_work, limiters=limiters, steps=steps, policy=policy)

    async def open_session(self, request: GuestRequest, *, correlation_id: str | None = None) -> Session:
        """Accept `request` and go as far towards a session as can be gone at once.

        Returns the session: active, refused, rejected or abandoned, or still pending with its `retry_at`; a scheduler
        goes on with it then. `correlation_id` (default: the session's own id) is kept with every event.

        Raises `InvalidRequest` (nothing was recorded), `IdempotencyConflict` when the request's key was used for
        another request, and `ServiceError` when CXone or the database cannot be used: its `accepted` names the session,
        which stays pending, if it came to one. Besides, as any `GuestledgerError`: `PartitionDetached` or `UnknownEvent` when the
        key's session cannot be read now, and `EventTooLarge` when the request is more than the log can keep.
        """
        return await self._open(request, TOWARDS_CREATION, correlation_id)

    async def accept(self, request: GuestRequest, *, correlation_id: str | None = None) -> Session:
        """Record `request` and leave every further step to a scheduler. Raises as `open_session` does."""
        return await self._open(request, frozenset(), correlation_id)

    async def _open(self, request: GuestRequest, kinds: StepKinds, correlation_id: str | None) -> Session:
        session = Session(id=self._clock.new_id())
        run = Run(
            session,
            kinds=kinds,
            actor=self._actor,
            lease=self._lease,
            correlation_id=str(session.id) if correlation_id is None else checked_correlation_id(correlation_id),
            idempotency_key=request.idempotency_key,
        )
        opened = OpenSession(request=checked(request), now=self._clock.now())
        run.propose(decide(session, opened, self._policy))
        try:
            with self._leases.hold(run.lease, session.id):
                return await self._steps.carry_on(run)
        except KeyTaken as taken:
            return await self._same_again(request, taken.stream_id)
        except ServiceError as error:
            # A copy: of one failure, many callers may have been told by one and the same exception.
            told = copy(error)
            told.accepted = session.id if run.recorded else None
            raise told from error

    async def _same_again(self, request: GuestRequest, stream_id: UUID) -> Session:
        session = of_history(await self._history_of(stream_id))
        if session.guest is None or session.guest.request_sha256 != request_digest(request):
            raise IdempotencyConflict(stream_id)
        return session

    async def check(self) -> None:
        """See that CXone can be used now.

        Raises `CredentialsRefused` or `ServiceUnreachable`; that is `RequestDenied` where only a limiter holds back the request for a
        token, for a time.
        """
        await self._provider.ready()

    async def health(self) -> Health:
        """Whether the database answers, within a few seconds, and how this process's scheduler fares. Raises nothing for that.

        CXone is not asked; `check` does.
        """
        return await health(self._store, scheduler_runs=self.scheduler.runs, trouble=self.scheduler.trouble)

    async def unfinished(self) -> int:
        """How many sessions still have work ahead that needs nobody's help.

        Not counted are token expiries that lie ahead, and calls of the webhook that are more than a minute away.
        """
        return (await self._due_work.backlog(self._steps.limiters(STEPS))).unfinished

    async def session(self, wanted: UUID | str) -> Session:
        """The session with this id, the engine's own or CXone's, as it is now. Raises `SessionNotFound`."""
        return of_history(await self.history(wanted))

    async def history(self, wanted: UUID | str) -> list[RecordedEvent]:
        """Every event of the session with this id, the engine's own or CXone's. Raises `SessionNotFound`."""
        history: list[RecordedEvent] = []
        with suppress(ValueError):
            history = await self._store.read_stream(UUID(str(wanted)))
        if not history:  # CXone's ids may look like ours
            await self._read_models.catch_up()
            stream_id = await self._read_models.stream_of(str(wanted))
            history = await self._history_of(stream_id) if stream_id else []
        if not history:
            raise SessionNotFound(str(wanted))
        return history

    async def _history_of(self, stream_id: UUID) -> list[RecordedEvent]:
        """The events of a stream that is known to have begun. Raises `PartitionDetached`."""
        history = await self._store.read_stream(stream_id)
        if not history:
            raise PartitionDetached(stream_id, month_of(stream_id))
        return history

    async def replay(self, wanted: UUID | str) -> list[Frame]:
        """The session with this id run again, moment by moment, with no I/O. Raises `SessionNotFound`."""
        return replay(await self.history(wanted), self._policy)

    async def limits(self) -> dict[str, LimiterState]:
        """What is known against the APIs, by limiter: a host and a quota scope. One that nothing is known against is left out.

        As it was noted, by the database's clock: a time that has passed by that holds nothing back any more. What pace it comes
        to, `LimiterState.rate` tells for a time and the workers' own policy, which is not kept with it.
        """
        return await self._gates.all()

    async def reset_limiter(self, name: str, *, opened_by: str) -> bool:
        """Forget what is known against this limiter, also until when its server wants to be left in peace.

        For a person who knows better, as where a server has asked for a wait of years. New sessions, and what is due behind
        it, go on with a worker's next look. Sessions that it has put off, or that were throttled, keep the time that they were
        told, which is in their history. The log of warnings tells who opened it, and nothing else does: it is no session's
        event. False when nothing is known against it.
        """
        opened = await self._gates.forget(name)
        if opened:
            logger.warning(
                "limiter %r is opened by hand, by %r: what was known against it is forgotten", name, opened_by
            )
        return opened

    async def why(self, wanted: UUID | str) -> Explanation:
        """What the session with this id, the engine's own or CXone's, waits for now, and when that will move.

        It is told by the data that workers go by, and by this ledger's own settings. Raises `SessionNotFound`, and
        `ServiceError`, for a database user too who may not see the work, as an auditor.
        """
        return await self._waits.why(await self.history(wanted))

    async def dead_letters(self) -> list[DeadLetter]:
        """The webhook's notices that are given up now, oldest first. Reads the log from end to end."""
        return await self._webhooks.dead_letters()

    async def redeliver_webhook(self, wanted: UUID | str, *, requested_by: str, reason: str) -> Session:
        """Have the notice of the session with this id sent anew, by a scheduler; who asked and why is recorded.

        It is a dead letter, or one that the receiver took and has lost. Raises `SessionNotFound`, `RedeliveryRefused`, and
        `InvalidRequest` for a text that cannot be stored. Neither text may hold a secret or a personal datum.
        """
        return await self._webhooks.redeliver(await self.history(wanted), requested_by=requested_by, reason=reason)

    async def resolve(self, wanted: UUID | str, resolution: Resolution, *, decided_by: str, reason: str) -> Session:
        """Record what a person decided about a parked session: `Verdict.RETRY`, `Verdict.ABANDON` or an `Adoption`.

        Returns the session as it is then; a scheduler goes on with it. Neither text may hold a secret or a personal datum.
        Raises `SessionNotFound`, `InvalidRequest` for what cannot be stored, and `ResolutionRefused` where the session is
        not parked or the adopted one is another session's.
        """
        history = await self.history(wanted)
        return await self._parking.resolve(history, resolution, decided_by=decided_by, reason=reason)

    def read_all(self, *, after: int = -1, wanted: EventFilter = EventFilter()) -> AsyncIterator[list[RecordedEvent]]:
        """The log after a position, in order, in batches, up to its present end.

        Raises `UnknownEvent` at an event that this release cannot read, once all before it have been given.
        """
        return self._store.read_all(after=after, wanted=wanted)

    async def head(self) -> int:
        """The position of the log's last event, to follow it from there on; -1 when it is empty."""
        return await self._store.head()

    def tail(self, *, after: int = -1, wanted: EventFilter = EventFilter()) -> AsyncIterator[Batch]:
        """The log after a position, in order, for ever: what is there, then what comes. See `guestledger.engine.operations.tail.tail`."""
        return tail(self._store, self._clock, after=after, wanted=wanted)

    async def consume(
        self,
        name: str,
        handler: Handler,
        *,
        wanted: EventFilter = EventFilter(),
        after: int = -1,
        pace: ConsumerOptions = ConsumerOptions(),
    ) -> NoReturn:
        """Feed `handler` from the log, batch by batch, until cancelled: at least once, from the checkpoint kept for `name`.

        One process at a time is the consumer `name`; others that ask stand by. A batch whose handler raises is tried
        again, after a wait, and nothing else waits for it. A new name begins after position `after`.
        """
        await Consumer(
            name,
            handler,
            store=self._store,
            checkpoints=self._consumers,
            clock=self._clock,
            wanted=wanted,
            start=after,
            pace=pace,
        ).run()

    async def months(self) -> list[Partition]:
        """The months that the log is stored in, oldest first; last what no month was made for, which is to be empty."""
        return await self._months.all()

    async def forget_consumer(self, name: str) -> bool:
        """Drop the checkpoint of a consumer that there is none of any more; False when it had none."""
        return await self._consumers.forget(name)

    async def consumers(self) -> list[ConsumerRow]:
        """The named consumers, and how far each has come."""
        return await self._consumers.all()

    async def catch_up(self) -> int:
        """Bring the projections up to the log. The readings below do so by themselves; returns how many events it took.

        A projection that meets an event that it cannot take in stops there alone, and its readings show what it holds; an
        error is logged, `projections` shows it, and every catch-up tries again. A database user who may only read, an
        auditor, brings nothing up: the readings show what was projected last, and a warning says how much that lacks.
        """
        return await self._read_models.catch_up()

    async def wait_for(self, position: int, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - the caller's own limit
        """Return once every projection holds the event at `position`: what you wrote there can then be read.

        Raises `ProjectionStopped` when one stands still before it, `TimeoutError` after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while True:
                await self._read_models.catch_up()
                if await self._hold(position):
                    return
                await asyncio.sleep(0.05)

    async def _hold(self, position: int) -> bool:
        behind = [standing for standing in await self._read_models.standing() if standing.position < position]
        for standing in behind:
            if standing.error is not None:
                raise ProjectionStopped(f"{standing.name} stands still: {standing.error}")
        return not behind

    async def projections(self) -> list[ProjectionStatus]:
        """Every projection: how far behind the log it is, and what it has stopped at. Nothing is caught up for it."""
        return await self._read_models.standing()

    async def rebuild_projection(self, name: str, advanced: Callable[[int], None] = lambda _position: None) -> int:
        """Make a projection's rows anew from the log and put them in place of the live ones, all at once.

        Everything else goes on meanwhile, and a rebuild that was cut off is gone on with. `advanced` is told each position
        on the way. Returns how many rows differed. Raises `UnknownProjection`, `ProjectionStopped` at an event that cannot
        be taken in, `RebuildInterrupted` when another process has done the same meanwhile.
        """
        return await self._read_models.rebuild(name, advanced)

    async def verify_projection(
        self, name: str, advanced: Callable[[int], None] = lambda _position: None
    ) -> Verification:
        """DenialReason a projection's rows against those that the log gives anew, and leave both as they are.

        Raises as `rebuild_projection` does, and `RebuildInterrupted` while a rebuild is unfinished.
        """
        return await self._read_models.verify(name, advanced)

    async def sessions(self, wanted: SessionFilter = SessionFilter()) -> AsyncIterator[SessionRow]:
        """The sessions that match, oldest first; everything committed before the call is in it."""
        await self._read_models.catch_up()
        async for row in self._read_models.sessions(wanted):
            yield row

    async def expiring_in(self, span: timedelta) -> list[SessionRow]:
        """The active sessions whose token has not expired yet and will within `span`, the next to expire first.

        Raises `ValueError` for a `span` of nothing or less.
        """
        return await expiring_in(self._read_models, self._clock, span)

    def expiry_warnings(self, ahead: timedelta) -> AsyncIterator[SessionRow]:
        """Each active session once, as soon as its token expires within `ahead`; for ever, while the database is away too.

        It may come late by 15 % of `ahead`, but never by more than 90 s; an `ahead` of less than 10 s, by 1.5 s or 75 % of it,
        whichever is less. A token that lives for less than that may expire untold, and so may one while the database is away;
        the `sessions` have them all. What was told is remembered by this iterator alone: another one, or the next after a
        restart, tells again of what is still ahead. Raises `ValueError` for an `ahead` of nothing or less.
        """
        return expiry_warnings(self._read_models, self._clock, ahead)

    async def audit(self, wanted: AuditFilter = AuditFilter()) -> AsyncIterator[AuditEntry]:
        """The audit entries that match, oldest first; everything committed before the call is in it."""
        await self._read_models.catch_up()
        async for entry in self._read_models.audit(wanted):
            yield entry

    async def metrics(self, wanted: MetricsFilter = MetricsFilter()) -> Metrics:
        """The metrics over what matches; everything committed before the call is in them."""
        await self._read_models.catch_up()
        return await self._read_models.metrics(wanted)
