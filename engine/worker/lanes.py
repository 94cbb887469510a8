"""Claiming: takes the due steps of one lane from the database, and runs them."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import ServiceError, ServiceUnreachable
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.due_steps import Claim, DueSteps
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.key_vault import KEY_VAULT
from guestledger.engine.worker.calls import CallLimit
from guestledger.engine.worker.executor import Executor
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.session_work import SessionWork
from guestledger.engine.worker.step import Lane
from guestledger.engine.worker.wakeups import wait_for_any

logger = logging.getLogger("guestledger")

# While steps run, places are refilled at most this often: claims come in batches.
_REFILL_SECONDS = 0.02
# The same when the last claim found fewer steps than there were places.
_IDLE_REFILL_SECONDS = 0.05
# The longest wait for a reservation before asking again: others may have left some.
_MAX_RESERVED_MS = 200
# How long a vault that could not be used is not asked again.
_VAULT_SECONDS = 5.0

UNREADABLE_DELAY_MS = 5_000
"""How long an unreadable session rests. A newer release may read it."""

Running = set[asyncio.Task[Counter[str]]]


class LaneRunner:
    """Runs the due steps of one ledger, lane by lane. `report` gets the service that a session could not use."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_steps: DueSteps,
        executor: Executor,
        leases: Leases,
        lease: Lease,
        calls: CallLimit,
        clock: Clock,
        stopping: asyncio.Event,
        report: Callable[[ServiceError | None], None],
    ) -> None:
        self._store = store
        self._due_steps = due_steps
        self._executor = executor
        self._leases = leases
        self._lease = lease
        self._calls = calls
        self._clock = clock
        self._stopping = stopping
        self._report = report
        self._actor = f"scheduler {lease.owner}"
        self._in_flight: dict[Lane, Running] = {lane: set() for lane in Lane}
        self._kept: Counter[Lane] = Counter()  # places for steps that are being claimed
        self._of_vault: ServiceUnreachable | None = None
        """Why the key vault could not be used when it was asked last."""
        self._ask_vault_at = -math.inf
        self._handed: Running = set()
        self._handed_done: Counter[str] = Counter()
        self.runs = 0
        """How many runs of the scheduler are active: steps are handed over while there is one."""

    def wanted(self, *lanes: Lane) -> dict[StepName, str | None]:
        """The steps of these lanes (default: all) that this process runs, each with its limiter."""
        return {
            step: handler.limiter
            for step, handler in self._executor.handlers.items()
            if handler.enabled and (not lanes or handler.lane in lanes)
        }

    def has_place(self, lane: Lane) -> bool:
        """See `Handover.has_place`."""
        return self.runs > 0 and not self._stopping.is_set() and self._places(lane) > 0

    @contextmanager
    def _keep(self, lane: Lane, places: int) -> Iterator[None]:
        self._kept[lane] += places
        try:
            yield
        finally:
            self._kept[lane] -= places

    def start(self, work: SessionWork, step: StepName) -> bool:
        """See `Handover.start`."""
        if not self.has_place(self._executor.handlers[step].lane):
            return False
        handed = SessionWork(work.state, actor=self._actor, lease=work.lease, correlation_id=work.correlation_id)
        handed.must_ask, handed.started_at = work.must_ask, work.started_at
        task = self._task(handed, step, work.leased_at)
        self._handed.add(task)
        task.add_done_callback(self._note_handed)
        return True

    def _note_handed(self, task: asyncio.Task[Counter[str]]) -> None:
        self._handed.discard(task)
        if not task.cancelled():
            self._handed_done.update(task.result())

    async def finish_handed(self, done: Counter[str]) -> None:
        """Wait for the steps that were handed over, and count what they recorded."""
        if self._handed:
            await asyncio.wait(self._handed.copy())
        done.update(self._handed_done)
        self._handed_done.clear()

    async def cut_off_handed(self) -> None:
        """Cancel the steps that were handed over, and wait for their end."""
        await _cancel(self._handed.copy())

    async def drain(self, lane: Lane, done: Counter[str]) -> None:
        """Run the lane's steps until none is due. Counts the recorded events in `done`, however it ends."""
        running: Running = set()
        try:
            while True:
                places = self._places(lane)
                if self._handed and lane is Lane.WEBHOOK:
                    places -= places // 2  # for new sessions; the rest serves what waits in the database
                with self._keep(lane, places):
                    started, more_in_ms = await self._start(lane, places)
                running |= started
                # Without places, steps that were handed over are in flight.
                if not running and more_in_ms is None and (places or self._stopping.is_set()):
                    return
                finished, running = await self._wait(running, more_in_ms, full=len(started) == places)
                for task in finished:
                    done.update(task.result())
        except Exception:
            # The database is away, or refuses a claim. Steps in flight may still record their answer; cut off, they would be
            # in doubt.
            if running:
                finished, running = await asyncio.wait(running)
                for task in finished:
                    done.update(task.result())
            raise
        finally:
            await _cancel(running)

    def _places(self, lane: Lane) -> int:
        """How many more steps of the lane may be in flight."""
        most = min(lane.max_in_flight, self._calls.max_claimed) if lane is Lane.CREATION else lane.max_in_flight
        return max(0, most - len(self._in_flight[lane]) - self._kept[lane])

    async def _wait(self, running: Running, more_in_ms: int | None, *, full: bool) -> tuple[Running, Running]:
        """Wait until it is time to claim again. Returns the finished and the unfinished tasks."""
        seconds = _REFILL_SECONDS if full else _IDLE_REFILL_SECONDS
        if more_in_ms is not None:
            # All workers wait for the same reservations: the first one takes those of the next moments.
            seconds = max(seconds, min(more_in_ms, _MAX_RESERVED_MS) * (0.5 + self._clock.jitter()) / 1_000)
        if running:
            return await asyncio.wait(running, timeout=seconds)
        await wait_for_any(self._stopping, seconds=seconds)
        return running, running

    async def _start(self, lane: Lane, places: int) -> tuple[Running, int | None]:
        """Claim and start. Returns the tasks, and `Claimed.more_in_ms`."""
        wanted = self.wanted(lane)
        if not places or not wanted or self._stopping.is_set():
            return set(), None
        lease = Lease(owner=self._clock.new_id(), ms=min(self._lease.ms, lane.max_lease_ms or self._lease.ms))
        with self._leases.claiming(lease) as asked_at:
            claimed = await self._due_steps.claim(lease, wanted, places)
            if not claimed.claims:
                return set(), claimed.more_in_ms
            self._executor.telemetry.claimed(claimed.claims)
            histories = await self._histories(claimed.claims, lease, reveal=lane is not Lane.RECORDING)
        works = [
            (SessionWork.of(history, actor=self._actor, lease=lease, claim=claim), claim.step)
            for claim in claimed.claims
            if (history := histories.get(claim.stream_id))
        ]
        return {self._task(work, step, asked_at) for work, step in works}, claimed.more_in_ms

    async def _histories(
        self, claims: Sequence[Claim], lease: Lease, *, reveal: bool
    ) -> dict[UUID, list[RecordedEvent]]:
        """The histories of the claimed sessions. An unreadable one is left out, and released."""
        reveal = reveal and Leases.now() >= self._ask_vault_at
        try:
            found = await self._store.read_streams([claim.stream_id for claim in claims], reveal=reveal)
        except ServiceUnreachable as error:
            if error.service != KEY_VAULT or not reveal:
                raise
            # Steps that need no personal data go on. While the vault was asked the leases may have lapsed: not again soon.
            self._of_vault, self._ask_vault_at = error, Leases.now() + _VAULT_SECONDS
            return await self._histories(claims, lease, reveal=False)
        except UnknownEvent as error:
            if len(claims) == 1:
                logger.error(  # noqa: TRY400 - it says it all
                    "session %s is left alone: %s",
                    claims[0].stream_id,
                    error,
                    extra={"session_id": claims[0].stream_id},
                )
                await self._due_steps.release(lease.owner, claims[0].stream_id, UNREADABLE_DELAY_MS)
                return {}
        else:
            if reveal:
                self._of_vault = None
            return found
        # One session blocks all of them: halve the claims until it stands alone.
        middle = len(claims) // 2
        first = await self._histories(claims[:middle], lease, reveal=reveal)
        return first | await self._histories(claims[middle:], lease, reveal=reveal)

    def _task(self, work: SessionWork, step: StepName, asked_at: float | None) -> asyncio.Task[Counter[str]]:
        lane = self._executor.handlers[step].lane
        task = asyncio.create_task(self._run_step(work, step, lane, asked_at))
        self._in_flight[lane].add(task)
        task.add_done_callback(self._in_flight[lane].discard)
        return task

    async def _run_step(self, work: SessionWork, step: StepName, lane: Lane, asked_at: float | None) -> Counter[str]:
        with self._leases.hold(work.lease, work.state.id, asked_at) as work.held:
            try:
                if work.claim is not None and work.claim.reserved_ms:
                    await asyncio.sleep(work.claim.reserved_ms / 1_000)
                await self._executor.run(work, lane, step)
                self._report(None)
            except ServiceError as error:
                self._report(self._of_vault or error if error.service == KEY_VAULT else error)
            except Exception:
                # A fault in one session must not stop the others. It is retried once its lease lapses.
                logger.exception(
                    "session %s could not be continued",
                    work.state.id,
                    extra={"session_id": work.state.id, "step": step},
                )
        return work.counts


async def _cancel(tasks: Running) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
