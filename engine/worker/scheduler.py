"""The scheduler: runs the due steps, keeps projections and partitions up to date, and waits for the next work."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any

from guestledger.engine.domain.errors import CredentialsRefused, ServiceError
from guestledger.engine.limits.retry import RetryPolicy, backoff_ms
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.due_steps import DueSteps
from guestledger.engine.ports.erasures import ErasureStore
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.partitions import Partitions
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.worker.calls import CallLimit
from guestledger.engine.worker.executor import Executor
from guestledger.engine.worker.lanes import LaneRunner
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.outages import OutageReporter
from guestledger.engine.worker.retention import RetentionPlanner
from guestledger.engine.worker.step import Lane
from guestledger.engine.worker.trouble import Trouble
from guestledger.engine.worker.wakeups import WakeupPoller, wait_for_any

logger = logging.getLogger("guestledger")
# For services that are waited for: some commands report these in their own words.
waiting = logging.getLogger("guestledger.waiting")

# How long `run_until_idle` waits for a service.
_PATIENCE = timedelta(seconds=15)
# How soon work in flight is looked at again, and how long projections rest after a catch-up.
_SOON_MS = 200
# Partitions are made months ahead, so this may fail for weeks without harm.
_PARTITIONS_MS = 600_000
# An erasure may be this late after the policy changed, and the end of a key in a vault of its own.
_RETENTION_MS = 600_000
# How often limiters and backlog of all processes are looked at.
_OUTAGES_MS = 10_000
# The pause while a service cannot be used.
_BACKOFF = RetryPolicy(base_ms=200, cap_ms=2_000)


class Scheduler:
    """Retries pending attempts, delivers webhooks, expires tokens. Any number of schedulers share one ledger."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_steps: DueSteps,
        partitions: Partitions,
        read_models: ReadModels,
        retention: RetentionPlanner,
        erasures: ErasureStore,
        executor: Executor,
        leases: Leases,
        lease: Lease,
        limiter: RateLimiter,
        outages: OutageReporter,
        calls: CallLimit,
        clock: Clock,
        drain_seconds: float = 10.0,
    ) -> None:
        self._due_steps = due_steps
        self._partitions = partitions
        self._read_models = read_models
        self._retention = retention
        self._erasures = erasures
        self._limiter = limiter
        self._outages = outages
        self._clock = clock
        self._drain_seconds = drain_seconds
        self._stopping = asyncio.Event()
        self._trouble = Trouble()
        self._lanes = LaneRunner(
            store=store,
            due_steps=due_steps,
            executor=executor,
            leases=leases,
            lease=lease,
            calls=calls,
            clock=clock,
            stopping=self._stopping,
            report=self._trouble.report,
        )
        executor.handover = self._lanes
        self._poller = WakeupPoller(store=store, due_steps=due_steps, wanted=self._lanes.wanted(), clock=clock)
        self._active = 0

    @property
    def trouble(self) -> ServiceError | None:
        """The last service error, or `None`."""
        return self._trouble.last

    @property
    def runs(self) -> bool:
        """Whether it runs now, draining included."""
        return self._active > 0

    def stop(self) -> None:
        """Claim nothing more. What is in flight may finish within `drain_seconds`.

        The rest is cut off and, when the ledger is closed, released: the next worker finds its attempts in doubt.
        """
        self._stopping.set()

    async def unfinished(self) -> int:
        """How many sessions have work ahead that needs no person.

        Not counted: future token expiries and erasures, and webhook calls over a minute away or not made here.
        """
        return await self._due_steps.unfinished(self._lanes.wanted())

    async def run_once(self) -> Counter[str]:
        """Run every due step, and those that become due meanwhile, then update projections and partitions.

        Returns how many events of each type were recorded. Raises `ServiceUnreachable` if the database is gone. If the
        provider cannot be used, the sessions rest for a while and a warning is logged.
        """
        done: Counter[str] = Counter()
        await self._retention.plan()
        await self._drain_all(done)
        await self._erasures.destroy_left_keys()
        await self._partitions.ensure_partitions()
        return done

    async def run_until_idle(self) -> Counter[str]:
        """Run until `unfinished` is 0, or `stop`.

        Returns as `run_once` does. Raises `ServiceError` if a service cannot be used for 15 s; refused credentials at once.
        """
        done: Counter[str] = Counter()
        await self._within_limit(self._run_until_idle(done), done)
        return done

    async def run_forever(self) -> None:
        """Run until `stop` is called. If cancelled instead, what is in flight is cut off."""
        await self._within_limit(self._run_forever(), Counter())

    async def _run_until_idle(self, done: Counter[str]) -> None:
        progressed_at, failures, due, first = self._clock.now(), 0, True, True
        while not self._stopping.is_set():
            before = done.total()
            try:
                if due:
                    if first:
                        await self._retention.plan()
                    await self._drain_all(done)
                    if first:
                        await self._partitions.ensure_partitions()
                        first = False
                due = True  # also if what follows fails
                self._trouble.database_answered()
                failures = self._trouble.recovered(failures)
                if await self._due_steps.is_idle(self._lanes.wanted()):
                    await self._erasures.destroy_left_keys()
                    await self._read_models.catch_up()
                    return
                due = await self._poller.finds_work(self._stopping)
            except ServiceError as error:
                failures += 1
                self._trouble.report_database(error)
            if done.total() > before or self.trouble is None:
                progressed_at = self._clock.now()
            elif isinstance(self.trouble, CredentialsRefused) or self._clock.now() - progressed_at > _PATIENCE:
                raise self.trouble
            if due:
                await self._pause(self._rest_ms(failures))

    async def _within_limit(self, work: Coroutine[Any, Any, None], done: Counter[str]) -> None:
        """Run `work` to its end; after `stop`, for at most `drain_seconds`."""
        task = asyncio.create_task(self._with_handover(work, done))
        stopping = asyncio.create_task(self._stopping.wait())
        self._active += 1
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            _, late = await asyncio.wait((task,), timeout=self._drain_seconds)
            if late:
                waiting.warning(
                    "stopping: not finished after %g s, so what is in flight is cut off and released",
                    self._drain_seconds,
                )
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            self._active -= 1
        if not task.cancelled():
            task.result()

    async def _with_handover(self, work: Coroutine[Any, Any, None], done: Counter[str]) -> None:
        self._lanes.runs += 1
        failed: BaseException | None = None
        try:
            # Even if the work fails: only a cancellation cuts off steps in flight.
            [failed] = await asyncio.gather(work, return_exceptions=True)
        except asyncio.CancelledError:
            self._lanes.runs -= 1
            if not self._lanes.runs:
                await self._lanes.cut_off_handed()
            raise
        self._lanes.runs -= 1
        try:
            await self._lanes.finish_handed(done)
        finally:
            if not self._lanes.runs:
                await self._lanes.cut_off_handed()
        if failed is not None:
            raise failed

    async def _run_forever(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for lane in Lane:
                due = asyncio.Event()
                self._poller.due |= dict.fromkeys(self._lanes.wanted(lane), due)
                tasks.create_task(self._tick(partial(self._lanes.drain, lane, Counter()), partial(self._woken, due)))
            # A projection that has stopped is always behind: without a rest, each look would retry it.
            behind = partial(self._woken, self._poller.behind, _SOON_MS)
            tasks.create_task(self._tick(self._read_models.catch_up, behind))
            tasks.create_task(self._tick(self._partitions.ensure_partitions, partial(self._pause, _PARTITIONS_MS)))
            tasks.create_task(self._tick(partial(self._poller.look, self._stopping)))
            for task in (self._retention.plan, self._erasures.destroy_left_keys):
                tasks.create_task(self._tick(task, partial(self._pause, _RETENTION_MS)))
            look = partial(self._outages.look, self._due_steps, self._limiter)
            tasks.create_task(self._tick(look, partial(self._pause, _OUTAGES_MS)))

    async def _drain_all(self, done: Counter[str]) -> None:
        await self._due_steps.follow_clock()
        await self._due_steps.free_lapsed()
        recorded = -1
        while recorded != done.total():  # what one lane recorded may be due in another
            recorded, busy, quiet = done.total(), set(Lane), asyncio.Event()
            # All lanes to their ends, even if one fails: see `LaneRunner.drain`.
            lanes = (self._drain(lane, done, busy, quiet) for lane in Lane)
            drained = await asyncio.gather(*lanes, return_exceptions=True)
            await self._lanes.finish_handed(done)
            for failed in drained:
                if failed is not None:
                    raise failed
        await self._read_models.catch_up()

    async def _drain(self, lane: Lane, done: Counter[str], busy: set[Lane], quiet: asyncio.Event) -> None:
        """Drain the lane, and again while another one is in `busy`: a call that hangs there delays nothing here."""
        while not quiet.is_set():
            busy.add(lane)
            try:
                await self._lanes.drain(lane, done)
            finally:
                busy.discard(lane)
                if not busy:
                    quiet.set()
            await wait_for_any(quiet, seconds=_SOON_MS / 1_000)

    async def _tick(
        self, task: Callable[[], Awaitable[object]], wait: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        # A task that waits to be woken needs no pause after a failure: the look that would wake it fails too.
        failures, reported = 0, ""
        while not self._stopping.is_set():
            try:
                await task()
                self._trouble.database_answered()
                failures = self._trouble.recovered(failures)
            except ServiceError as error:
                failures += 1
                self._trouble.report_database(error)
            except Exception as error:
                # A fault in one lane or projection must not stop the rest, and is logged once.
                failures += 1
                if repr(error) != reported:
                    logger.exception("the scheduler met a fault and continues")
                reported = repr(error)
            if wait is not None:
                await wait()
            elif failures:
                await self._pause(self._rest_ms(failures))

    def _rest_ms(self, failures: int) -> int:
        return _SOON_MS + (backoff_ms(failures, _BACKOFF, self._clock.jitter()) if failures else 0)

    async def _woken(self, event: asyncio.Event, rest_ms: int = 0) -> None:
        if rest_ms:
            await self._pause(rest_ms)
        await wait_for_any(event, self._stopping)
        event.clear()

    async def _pause(self, interval_ms: int) -> None:
        # Half to one and a half of the interval: workers must not ask all at once.
        await wait_for_any(self._stopping, seconds=interval_ms * (0.5 + self._clock.jitter()) / 1_000)
