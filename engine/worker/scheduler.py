"""The scheduler: claims due work and takes it forward. What a session needs, only `next_step` knows."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from guestledger.engine.domain.errors import CredentialsRefused, ServiceError, UnknownEvent
from guestledger.engine.domain.lifecycle import ExpireToken, SyncWebhook
from guestledger.engine.limits.retry import RetryPolicy, backoff_ms
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports import Clock, DueSteps, EventStore, Partitions, ReadModels
from guestledger.engine.work import Claim
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.session_work import TOWARDS_CREATION, Run, StepKinds
from guestledger.engine.worker.steps import Steps
from guestledger.engine.worker.wakeups import WakeupPoller, wait_for_any

logger = logging.getLogger("guestledger")
# Of a service that has to be waited for, and what comes of the wait. Apart, for a command that tells of that in its own words, and of nothing else.
waiting = logging.getLogger("guestledger.waiting")

# While work is in flight, free places are filled again at most this often: claims then come in batches. Where the last claim
# found less than there were places for, there is less hurry.
_REFILL_SECONDS = 0.02
_LOOK_AGAIN_SECONDS = 0.05
# How long `run_until_idle` bears with a service that cannot be used.
_PATIENCE = timedelta(seconds=15)
# How soon work that is under way is asked after again, and projections that are written to are brought up again.
_SOON_MS = 200
# While a service cannot be used.
_BACKOFF = RetryPolicy(base_ms=200, cap_ms=2_000)
# The log's months are made months ahead, so this may fail for weeks before anybody is the worse for it.
_UPKEEP_MS = 600_000

# How long a session rests that this release cannot read. A worker of the newer release may take it as soon as that.
UNREADABLE_DELAY_MS = 5_000


# The longest that a worker waits for a slot before it asks again: others may have left some.
_MAX_PACED_MS = 200

_Running = set[asyncio.Task[Counter[str]]]


class Lane(NamedTuple):
    """Kinds of step that share places, so that a webhook that hangs never stands in the way of a creation."""

    kinds: StepKinds
    max_in_flight: int


LANES = (
    Lane(TOWARDS_CREATION, 64),
    Lane(frozenset({SyncWebhook}), 64),
    Lane(frozenset({ExpireToken}), 200),
)


class Scheduler:
    """Replays pending attempts, sends due webhooks, expires tokens. Any number of them work on one ledger."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_work: DueSteps,
        months: Partitions,
        read_models: ReadModels,
        steps: Steps,
        leases: Leases,
        lease: Lease,
        clock: Clock,
        drain_seconds: float = 10.0,
    ) -> None:
        self._store = store
        self._due_work = due_work
        self._months = months
        self._read_models = read_models
        self._steps = steps
        self._leases = leases
        self._lease = lease
        self._clock = clock
        self._drain_seconds = drain_seconds
        self._wanted = steps.limiters(frozenset().union(*(lane.kinds for lane in LANES)))
        self._watch = WakeupPoller(store=store, due_work=due_work, steps=self._wanted, clock=clock)
        self._actor = f"scheduler {lease.owner}"
        self._stopping = asyncio.Event()
        self.trouble: ServiceError | None = None
        """The service that could not be used when it was needed last."""
        self._missed: ServiceError | None = None  # when the database was needed last
        self._told = ""
        self.runs = False
        """Whether it runs now, be it that it drains."""

    def stop(self) -> None:
        """Claim nothing more. What is in flight is finished first, for as long as `drain_seconds` allow.

        What is not finished by then is cut off and, once the ledger is closed, given back: whoever takes it on at once finds
        its attempts in doubt, as after a crash.
        """
        self._stopping.set()

    async def unfinished(self) -> int:
        """Count the sessions with work ahead, except future token expiries and webhook calls more than a minute ahead."""
        return (await self._due_work.backlog(self._wanted)).unfinished

    async def run_once(self) -> Counter[str]:
        """Take every step that is due, and those that fall due meanwhile, then bring projections and months up to date.

        Returns how many events of each type were recorded. Raises `ServiceUnreachable` when the database is gone; when
        CXone cannot be used, the sessions rest for a while and a warning is logged.
        """
        done: Counter[str] = Counter()
        await self._finish_all(done)
        return done

    async def _finish_all(self, done: Counter[str]) -> None:
        await self._drain_all(done)
        await self._months.ensure_partitions()

    async def run_until_idle(self) -> Counter[str]:
        """Run until nothing is left but token expiries ahead, parked sessions, and webhooks due in a minute or later; or `stop`.

        Returns as `run_once` does.

        Raises `ServiceError` when a service that is needed cannot be used for 15 s on end, for wrong credentials at once.
        """
        done: Counter[str] = Counter()
        await self._within_limit(self._run_until_idle(done))
        return done

    async def _run_until_idle(self, done: Counter[str]) -> None:
        progressed_at, failures, work, due = self._clock.now(), 0, self._finish_all, True
        while not self._stopping.is_set():
            before = done.total()
            try:
                if due:
                    await work(done)
                    work = self._drain_all
                due = True  # also where what follows fails
                self._database_answered()
                if failures:
                    failures, self._told = 0, ""
                if await self._due_work.is_idle(self._wanted):
                    await self._read_models.catch_up()
                    return
                due = await self._watch.finds_work(self._stopping)
            except ServiceError as error:
                failures += 1
                self._missed = error
                self._has_to_wait(error)
            if done.total() > before or self.trouble is None:
                progressed_at = self._clock.now()
            elif isinstance(self.trouble, CredentialsRefused) or self._clock.now() - progressed_at > _PATIENCE:
                raise self.trouble
            if due:
                await self._pause(self._rest_ms(failures))

    async def run_forever(self) -> None:
        """Run until `stop` is called. When cancelled instead, what is in flight is cut off at once."""
        await self._within_limit(self._run_forever())

    async def _within_limit(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end; once `stop` was called, for at most as long as the drain may take."""
        task = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stopping.wait())
        self.runs = True
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            _, late = await asyncio.wait((task,), timeout=self._drain_seconds)
            if late:
                waiting.warning(
                    "told to stop, and not done after %g s: what is in flight is cut off and given back",
                    self._drain_seconds,
                )
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            self.runs = False
        if not task.cancelled():
            task.result()

    async def _run_forever(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for lane in LANES:
                due = asyncio.Event()
                self._watch.due |= {kind.__name__: due for kind in lane.kinds}
                tasks.create_task(self._tick(partial(self._drain, lane, Counter()), partial(self._woken, due)))
            behind = partial(self._woken, self._watch.behind, _SOON_MS)
            tasks.create_task(self._tick(self._read_models.catch_up, behind))
            tasks.create_task(self._tick(self._months.ensure_partitions, partial(self._pause, _UPKEEP_MS)))
            tasks.create_task(self._tick(partial(self._watch.look, self._stopping)))

    async def _drain_all(self, done: Counter[str]) -> None:
        # To their ends, all of them, also where one fails: what they have in flight may yet record its answer.
        drained = await asyncio.gather(*(self._drain(lane, done) for lane in LANES), return_exceptions=True)
        for failed in drained:
            if failed is not None:
                raise failed
        await self._read_models.catch_up()

    async def _tick(
        self, task: Callable[[], Awaitable[object]], wait: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        # What waits to be woken needs no pause after a failure: the look that would wake it fails too, or finds it still due.
        failures, told = 0, ""
        while not self._stopping.is_set():
            try:
                await task()
                self._database_answered()
                if failures:
                    failures, self._told = 0, ""
            except ServiceError as error:
                failures += 1
                self._missed = error
                self._has_to_wait(error)
            except Exception as error:
                # A fault in one lane or projection must not stop the rest, nor end unseen, nor be told at each try.
                failures += 1
                if repr(error) != told:
                    logger.exception("the scheduler met a fault, and goes on")
                told = repr(error)
            if wait is not None:
                await wait()
            elif failures:
                await self._pause(self._rest_ms(failures))

    def _rest_ms(self, failures: int) -> int:
        return _SOON_MS + (backoff_ms(failures, _BACKOFF, self._clock.jitter()) if failures else 0)

    def _has_to_wait(self, error: ServiceError) -> None:
        # Told once, not once a session and try, until something has gone well again.
        if str(error) != self._told:
            waiting.warning("the scheduler has to wait: %s", error)
        self._told, self.trouble = str(error), error

    def _database_answered(self) -> None:
        # Be it to another task than the one that missed it: that may not need it again for long.
        if self.trouble is self._missed:
            self.trouble = None

    async def _woken(self, event: asyncio.Event, rest_ms: int = 0) -> None:
        await wait_for_any(event, self._stopping)
        if rest_ms:  # what comes within it is served together
            await self._pause(rest_ms)
        event.clear()

    async def _pause(self, interval_ms: int) -> None:
        # Spread over half to one and a half of the interval, so that many workers do not ask in step.
        await wait_for_any(self._stopping, seconds=interval_ms * (0.5 + self._clock.jitter()) / 1_000)

    async def _drain(self, lane: Lane, done: Counter[str]) -> None:
        """Take the lane's steps until none is due, and count in `done` what that recorded, however it ends."""
        running: set[asyncio.Task[Counter[str]]] = set()
        try:
            while True:
                places = max(0, self._most(lane) - len(running))
                started, paced_ms = await self._start(lane, places)
                running |= started
                if not running and paced_ms is None:
                    return
                finished, running = await self._wait(running, paced_ms, more=len(started) == places)
                for task in finished:
                    done.update(task.result())
        except ServiceError:
            # The database has to be waited for. What is in flight may yet record its answer; cut off, it would be in doubt.
            if running:
                finished, running = await asyncio.wait(running)
                for task in finished:
                    done.update(task.result())
            raise
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    def _most(self, lane: Lane) -> int:
        # What only waited here for a place, another process could have served.
        return (
            min(lane.max_in_flight, self._steps.max_claimed) if lane.kinds == TOWARDS_CREATION else lane.max_in_flight
        )

    async def _wait(self, running: _Running, paced_ms: int | None, *, more: bool) -> tuple[_Running, _Running]:
        """Wait until it is time to claim again, soon where there is `more`; returns the runs that have ended, and the others."""
        seconds = _REFILL_SECONDS if more else _LOOK_AGAIN_SECONDS
        if paced_ms is not None:
            # All workers wait for the same slots: whoever comes first takes those of the next moments.
            seconds = max(seconds, min(paced_ms, _MAX_PACED_MS) * (0.5 + self._clock.jitter()) / 1_000)
        if running:
            return await asyncio.wait(running, timeout=seconds)
        await wait_for_any(self._stopping, seconds=seconds)
        return running, running

    async def _start(self, lane: Lane, places: int) -> tuple[_Running, int | None]:
        """Claim and begin; returns the runs that have begun, and in what time more may be claimed where a pace holds it back."""
        wanted = self._steps.limiters(lane.kinds)
        if not places or not wanted or self._stopping.is_set():
            return set(), None
        lease = Lease(owner=self._clock.new_id(), ms=self._lease.ms)
        with self._leases.claiming(lease) as asked_at:
            claimed = await self._due_work.claim(lease, wanted, places)
            claims = claimed.claims
            if not claims:
                return set(), claimed.paced_ms
            histories = await self._histories(claims, lease)
        runs = {
            asyncio.create_task(
                self._carry_on(
                    claim, Run.of(histories[claim.stream_id], lane.kinds, self._actor, lease, claim), asked_at
                )
            )
            for claim in claims
            if claim.stream_id in histories
        }
        return runs, claimed.paced_ms

    async def _histories(self, claims: Sequence[Claim], lease: Lease) -> dict[UUID, list[RecordedEvent]]:
        """The histories of the claimed sessions. One that this release cannot read is left out, and given back."""
        try:
            return await self._store.read_streams([claim.stream_id for claim in claims])
        except UnknownEvent as error:
            if len(claims) == 1:
                logger.error("session %s is left alone: %s", claims[0].stream_id, error)  # noqa: TRY400 - it says it all
                await self._due_work.release(lease.owner, claims[0].stream_id, UNREADABLE_DELAY_MS)
                return {}
        # One stands in the way of all: halve the claims until it stands alone.
        middle = len(claims) // 2
        return await self._histories(claims[:middle], lease) | await self._histories(claims[middle:], lease)

    async def _carry_on(self, claim: Claim, run: Run, asked_at: float) -> Counter[str]:
        with self._leases.hold(run.lease, claim.stream_id, asked_at):
            try:
                if claim.slot_ms is not None:
                    await asyncio.sleep(claim.slot_ms / 1_000)
                await self._steps.carry_on(run)
                self.trouble, self._told = None, ""
            except ServiceError as error:
                self._has_to_wait(error)
            except Exception:
                # A fault in one session must not stop the others. Its lease lapses, and then it is tried again.
                logger.exception("session %s could not be taken forward", claim.stream_id)
        return run.tally
