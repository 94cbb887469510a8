"""The ledger: what an embedder holds."""

from collections.abc import AsyncIterator
from contextlib import suppress
from copy import copy
from uuid import UUID

from engine.domain.commands import OpenSession
from engine.domain.errors import IdempotencyConflict, ServiceError, SessionNotFound
from engine.domain.lifecycle import Policy, decide
from engine.domain.recorded import RecordedEvent
from engine.domain.request import GuestRequest, checked, checked_correlation_id, request_digest
from engine.domain.session import Session
from engine.leases import Leases
from engine.ports import Clock, DueWork, EventStore, KeyTaken, Lease, MessagingProvider, ReadModels
from engine.projections.audit import AuditEntry, AuditFilter
from engine.projections.metrics import Metrics, MetricsFilter
from engine.projections.sessions import SessionFilter, SessionRow
from engine.replay import Frame, replay
from engine.scheduler import Scheduler
from engine.steps import TOWARDS_CREATION, Run, StepKinds, Steps, of_history


class Ledger:
    """Opens guest sessions, and tells what happened in every one of them."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_work: DueWork,
        read_models: ReadModels,
        provider: MessagingProvider,
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
        self._read_models = read_models
        self._provider = provider
        self._steps = steps
        self._leases = leases
        self._clock = clock
        self._policy = policy
        self._actor = f"open_session {lease.owner}"

    async def open_session(self, request: GuestRequest, *, correlation_id: str | None = None) -> Session:
        """Accept `request` and go as far towards a session as can be gone at once.

        Returns the session: active, refused, rejected or abandoned, or still pending with its `retry_at`; a scheduler
        goes on with it then. `correlation_id` (default: the session's own id) is kept with every event.

        Raises `InvalidRequest` (nothing was recorded), `IdempotencyConflict` when the request's key was used for
        another request, and `ServiceError` when CXone or the database cannot be used: its `accepted` names the session,
        which stays pending, if it came to one.
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
            correlation_id=str(session.id) if correlation_id is None else checked_correlation_id(correlation_id),
            idempotency_key=request.idempotency_key,
        )
        opened = OpenSession(request=checked(request), now=self._clock.now())
        run.propose(decide(session, opened, self._policy))
        try:
            with self._leases.hold(session.id):
                return await self._steps.carry_on(run)
        except KeyTaken as taken:
            return await self._same_again(request, taken.stream_id)
        except ServiceError as error:
            # A copy: of one failure, many callers may have been told by one and the same exception.
            told = copy(error)
            told.accepted = session.id if run.recorded else None
            raise told from error

    async def _same_again(self, request: GuestRequest, stream_id: UUID) -> Session:
        session = of_history(await self._store.read_stream(stream_id))
        if session.guest is None or session.guest.request_sha256 != request_digest(request):
            raise IdempotencyConflict(stream_id)
        return session

    async def check(self) -> None:
        """See that CXone can be used now. Raises `CredentialsRefused` or `ServiceUnreachable`."""
        await self._provider.ready()

    async def unfinished(self) -> int:
        """How many sessions still have work ahead that needs nobody's help, token expiries that lie ahead not counted."""
        return (await self._due_work.backlog()).unfinished

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
            history = await self._store.read_stream(stream_id) if stream_id else []
        if not history:
            raise SessionNotFound(str(wanted))
        return history

    async def replay(self, wanted: UUID | str) -> list[Frame]:
        """The session with this id run again, moment by moment, with no I/O. Raises `SessionNotFound`."""
        return replay(await self.history(wanted), self._policy)

    async def catch_up(self) -> int:
        """Bring the projections up to the log. The readings below do so by themselves; returns how many events it took."""
        return await self._read_models.catch_up()

    async def sessions(self, wanted: SessionFilter = SessionFilter()) -> AsyncIterator[SessionRow]:
        """The sessions that match, oldest first; everything committed before the call is in it."""
        await self._read_models.catch_up()
        async for row in self._read_models.sessions(wanted):
            yield row

    async def audit(self, wanted: AuditFilter = AuditFilter()) -> AsyncIterator[AuditEntry]:
        """The audit entries that match, oldest first; everything committed before the call is in it."""
        await self._read_models.catch_up()
        async for entry in self._read_models.audit(wanted):
            yield entry

    async def metrics(self, wanted: MetricsFilter = MetricsFilter()) -> Metrics:
        """The metrics over what matches; everything committed before the call is in them."""
        await self._read_models.catch_up()
        return await self._read_models.metrics(wanted)
