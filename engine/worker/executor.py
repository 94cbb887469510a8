"""The executor: runs the steps of one session, one after the other, and records what each came to.

Three rules make a crash harmless. Nothing is sent before the decision for it is committed. Every append names the version
it was decided on, so only one of two workers gets through to an effect. Nothing is sent under a lease that was not renewed
within its span.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Protocol

from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.errors import RequestDenied, ServiceError, SubjectErased, WrongExpectedVersion
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.log.appends import Appended
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.telemetry import NoTelemetry, Telemetry
from guestledger.engine.worker.deferring import deferral
from guestledger.engine.worker.leases import LeaseLost
from guestledger.engine.worker.recorder import Recorder, decide_all, has_effect, is_outcome
from guestledger.engine.worker.session_work import SessionWork
from guestledger.engine.worker.step import Lane, StepResult
from guestledger.engine.worker.steps import Handlers

waiting = logging.getLogger("guestledger.waiting")

# How long a session rests if a service cannot be used, spread over half to one and a half of it. It costs no attempt.
SERVICE_DOWN_DELAY_MS = 2_000
# The rest of a step that the log does not show as due.
_NOT_DUE_DELAY = timedelta(days=1)


class Handover(Protocol):
    """Takes a step that has just become due in this process, so that no worker has to claim it and read its session."""

    def has_place(self, lane: Lane) -> bool:
        """Whether the lane takes another step now."""
        ...

    def start(self, work: SessionWork, step: StepName) -> bool:
        """Run the step, whose lease `work` holds, in the background; `False` if it is not accepted any more."""
        ...


class Executor:
    """Runs steps. It alone commits."""

    def __init__(
        self,
        *,
        handlers: Handlers,
        recorder: Recorder,
        clock: Clock,
        policy: Policy,
        telemetry: Telemetry = NoTelemetry(),
    ) -> None:
        self.handlers = handlers
        self.handover: Handover | None = None
        self.recorder = recorder
        self.clock = clock
        self.policy = policy
        self.telemetry = telemetry

    async def run(self, work: SessionWork, lane: Lane | None, step: StepName | None = None) -> Session:
        """Run `step` (default: the one that is due) and every further step of the lane that is due then; `None`: no step.

        Returns the session as it is then; its steps are released. Raises `ServiceError`: what was accepted is recorded,
        and due again soon.
        """
        try:
            if step is not None and not await self._is_due(work, step):
                await self._rest(work, step)
                return work.state
            step = step or self._next_step(work, lane)
            if step is None:
                await self._record(work, None, StepResult(), lane)
            while step is not None:
                with self.telemetry.step(work.state, step, claimed=work.claim is not None) as run:
                    result = await self._run_step(work, step)
                    run.came_to(result.commands)
                    step = await self._record(work, step, result, lane)
        except WrongExpectedVersion:
            # Another worker continued the session, or a person decided. What they recorded counts.
            await self.recorder.release(work)
            return await self.recorder.reload(work)
        except SubjectErased:
            if not work.recorded.version:
                raise
            # It ends with the erasure, which is under way.
            await self.recorder.release(work, self._service_down_delay_ms())
            return await self.recorder.reload(work)
        except LeaseLost:
            # Nothing is released: the lease lapses any moment, and a worker this slow should not claim it at once.
            waiting.warning("session %s: its lease has lapsed, so nothing more is sent from here", work.state.id)
            return await self.recorder.reload(work)
        except ServiceError:
            # In the recording lane the short lease lapses as soon, and the step stays due. What is not recorded holds no lease.
            if lane is not Lane.RECORDING and work.recorded.version:
                await self.recorder.release(work, self._service_down_delay_ms())
            raise
        return work.state

    def now(self, work: SessionWork) -> datetime:
        """See `SessionWork.now`."""
        return work.now(self.clock)

    def _service_down_delay_ms(self) -> int:
        return round(SERVICE_DOWN_DELAY_MS * (0.5 + self.clock.jitter()))

    async def _is_due(self, work: SessionWork, step: StepName) -> bool:
        # The history is read after the claim: somebody may have moved the step to a later time in between.
        return self._is_reached(work, step) or (
            await self.recorder.follows_clock(work, step, self.now(work)) and self._is_reached(work, step)
        )

    def _is_reached(self, work: SessionWork, step: StepName) -> bool:
        now = self.now(work)
        return any(due.step is step and due.due_at <= now for due in work.due_steps(self.policy))

    async def _run_step(self, work: SessionWork, step: StepName) -> StepResult:
        context = _Context(self, work, step)
        try:
            return await self.handlers[step].run(work.state, context)
        except RequestDenied as denial:
            return StepResult(commands=(deferral(context, self.clock, denial.limiter, denial.denied),), stop=True)

    async def _record(
        self, work: SessionWork, step: StepName | None, result: StepResult, lane: Lane | None
    ) -> StepName | None:
        """Record what a step came to. Returns the step of the lane that is due next, if any; its lease is kept."""
        if result.lease_lost:
            await self.recorder.record_late(work, result)
            raise LeaseLost
        events = decide_all(work.state, result.commands, self.policy)
        if not events and not work.proposed:
            if result.commands and is_outcome(result):
                await self.recorder.record_late(work, result)
            await self._rest(work, step)
            return None
        work.propose(events)
        following = None if result.stop else self._next_step(work, lane)
        if following is not None and result.sent_nothing:
            return following
        handed = None if following else self._to_hand_over(work)
        kept = following or handed
        own = kept or step
        appended = await self._append(work, result, () if own is None else (own,), keep=kept is not None)
        if handed is not None:
            await self._hand_over(work, handed, appended)
        return following

    async def _append(
        self, work: SessionWork, result: StepResult, mine: tuple[StepName, ...], *, keep: bool
    ) -> Appended:
        try:
            return await self.recorder.append(work, mine=mine, keep=keep, feedback=result.feedback)
        except WrongExpectedVersion:
            if is_outcome(result):
                await self.recorder.record_late(work, result)
            raise
        except SubjectErased:
            if is_outcome(result):
                self.recorder.record_once_back(work, result)
            raise
        except (ServiceError, asyncio.CancelledError) as error:
            # Only this process knows the outcome: a caller that gives up, or a ledger that closes, must not lose it.
            # A look-up changed nothing, and is repeated.
            if has_effect(result) or (is_outcome(result) and isinstance(error, ServiceError)):
                self.recorder.record_once_back(work, result)
            raise

    def _next_step(self, work: SessionWork, lane: Lane | None) -> StepName | None:
        now = self.now(work)
        for due in work.due_steps(self.policy):
            if self.handlers[due.step].lane is lane and due.due_at <= now:
                return due.step
        return None

    def _to_hand_over(self, work: SessionWork) -> StepName | None:
        """A webhook that becomes due with this append, if its lane has a place in this process."""
        known = {due.step for due in work.recorded_due_steps(self.policy)}
        for due in work.due_steps(self.policy):
            handler = self.handlers[due.step]
            if due.step not in known and handler.lane is Lane.WEBHOOK and handler.enabled:
                return due.step if self.handover is not None and self.handover.has_place(handler.lane) else None
        return None

    async def _hand_over(self, work: SessionWork, step: StepName, appended: Appended) -> None:
        assert self.handover is not None
        work.must_ask, work.started_at = self.handlers[step].limiter in appended.limiters, appended.at
        if not self.handover.start(work, step):
            await self.recorder.release(work)

    async def _rest(self, work: SessionWork, step: StepName | None) -> None:
        """Release a step without an event: at once if it is due, else when it is."""
        found: DueStep | None = next((due for due in work.due_steps(self.policy) if due.step == step), None)
        rest = found.due_at - self.now(work) if found else _NOT_DUE_DELAY
        await self.recorder.release(work, max(0, -(-rest // timedelta(milliseconds=1))))


class _Context:
    """See `StepContext`."""

    def __init__(self, executor: Executor, work: SessionWork, step: StepName) -> None:
        self._executor = executor
        self._work = work
        self._step = step

    @property
    def state(self) -> Session:
        return self._work.state

    @property
    def claimed(self) -> bool:
        return self._work.claim is not None

    @property
    def must_ask(self) -> bool:
        return self._work.must_ask

    @property
    def started_at(self) -> datetime:
        return self._work.started_at or self.now()

    def now(self) -> datetime:
        return self._executor.now(self._work)

    def decide(self, command: Command) -> list[Event]:
        return decide(self._work.state, command, self._executor.policy)

    def admission(self, limiter: str) -> AdmissionRequest:
        reserved, self._work.reserved = self._work.reserved == self._step, None
        return AdmissionRequest(limiter=limiter, retry=self._work.state.is_retried, reserved=reserved)

    def check_lease(self) -> None:
        if self._work.held is None:
            raise LeaseLost
        self._work.held.check()

    async def commit(
        self, command: Command | None = None, admission: AdmissionRequest | None = None
    ) -> Appended | None:
        events = [] if command is None else self.decide(command)
        if not events and not self._work.proposed:
            return None
        mine = (self._step, StepName.SETTLE_ATTEMPT)
        return await self._executor.recorder.append(self._work, events, mine=mine, keep=True, admission=admission)
