"""Accepting a guest's request, and going as far as possible at once."""

from uuid import UUID

from guestledger.engine.domain.commands import OpenSession
from guestledger.engine.domain.errors import IdempotencyConflict, ServiceError
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.repeated import differing_fields
from guestledger.engine.domain.request import GuestRequest, checked, checked_correlation_id
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import KeyTaken, Lease
from guestledger.engine.operations.histories import Histories
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.worker.executor import Executor
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.session_work import SessionWork, session_of
from guestledger.engine.worker.step import Lane


class Opener:
    """Opens sessions."""

    def __init__(
        self, adapters: Adapters, *, executor: Executor, leases: Leases, lease: Lease, histories: Histories
    ) -> None:
        self._personal = adapters.personal
        self._clock = adapters.clock
        self._telemetry = adapters.telemetry
        self._executor = executor
        self._leases = leases
        self._lease = lease
        self._actor = f"open_session {lease.owner}"
        self._histories = histories

    async def open(self, request: GuestRequest, lane: Lane | None, correlation_id: str | None) -> Session:
        """See `Ledger.open_session`. Without a `lane`, the request is recorded, and no step runs."""
        session = Session(id=self._clock.new_id())
        with self._telemetry.opening(session.id) as opening:
            opened = await self._accept(session, request, lane, correlation_id)
            opening.came_to(opened)
            return opened

    async def _accept(
        self, session: Session, request: GuestRequest, lane: Lane | None, correlation_id: str | None
    ) -> Session:
        work = SessionWork(
            session,
            actor=self._actor,
            lease=self._lease,
            correlation_id=str(session.id) if correlation_id is None else checked_correlation_id(correlation_id),
            idempotency_key=request.idempotency_key,
        )
        opened = OpenSession(request=checked(request), hmac_key=self._clock.new_key(), now=self._clock.now())
        work.propose(decide(session, opened, self._executor.policy))
        try:
            with self._leases.hold(work.lease, session.id) as work.held:
                return await self._executor.run(work, lane)
        except KeyTaken as taken:
            return await self._repeated(request, taken.stream_id)
        except ServiceError as error:
            raise error.with_accepted(session.id if work.recorded.version else None) from error

    async def _repeated(self, request: GuestRequest, stream_id: UUID) -> Session:
        history = await self._histories.of_stream(stream_id)
        [first] = await self._personal.opened(history[:1], (Purpose.CONTACT,))
        opened = first.event
        assert isinstance(opened, ConsentRecorded | ConsentRefused), "every stream starts with the guest's consent"
        if fields := differing_fields(opened, request):
            raise IdempotencyConflict(stream_id, fields)
        # The token is this caller's due. The contact data is of the first request, which may say more than this one.
        return session_of(await self._personal.opened(history, (Purpose.ACCESS,)))
