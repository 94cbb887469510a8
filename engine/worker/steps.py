"""Carrying a session forward: what `next_step` names is done, and what comes of it is recorded.

Three rules make a crash harmless anywhere in here. Nothing is sent before what was decided is committed; every append
names the version it was decided on, so that of two workers on one session only one gets through to an effect; and nothing
is sent under a lease that was not renewed within its span, so that one who stood still in between sends nothing late.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import assert_never

from msgspec.structs import replace

from guestledger.engine.domain.commands import (
    BeginAttempt,
    BeginLookup,
    Defer,
    Expire,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
)
from guestledger.engine.domain.errors import RequestDenied, ServiceError, WrongExpectedVersion
from guestledger.engine.domain.events import CreationAttempted, Event
from guestledger.engine.domain.feedback import heard_of_webhook, not_sent
from guestledger.engine.domain.lifecycle import (
    AttemptCreation,
    ExpireToken,
    Policy,
    Step,
    SyncWebhook,
    ValidateChannel,
    decide,
)
from guestledger.engine.domain.outcomes import CreationOutcome, Delivered
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.policy import AdmissionRequest, DenialReason, Denied
from guestledger.engine.log.appends import AppendDenied
from guestledger.engine.ports import Clock, Provider, RateLimiter, WebhookSender
from guestledger.engine.worker.leases import LeaseLost, Leases
from guestledger.engine.worker.lookups import LookUps
from guestledger.engine.worker.recorder import Recorder
from guestledger.engine.worker.sending import Sending
from guestledger.engine.worker.session_work import Run, StepKinds

waiting = logging.getLogger("guestledger.waiting")

# How long a session rests when the service it needs cannot be used at all, spread over half to one and a half of it. Nothing
# happened to the session, so there is no event, and none of its attempts is used up.
SERVICE_DOWN_DELAY_MS = 2_000


class Steps:
    """Takes sessions forward, each under its run's lease."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        provider: Provider,
        webhook: WebhookSender,
        limiters: RateLimiter,
        clock: Clock,
        policy: Policy,
        leases: Leases,
    ) -> None:
        self._recorder = recorder
        self._provider = provider
        self._webhook = webhook
        self._gates = limiters
        self._clock = clock
        self._policy = policy
        self._leases = leases
        self._calls = asyncio.Semaphore(policy.limiter.calls_per_process)
        self._unclaimed_calls = 0
        self._lookups = LookUps(provider, limiters, leases, limited=policy.limiter.calls is not None)

    def limiters(self, kinds: StepKinds) -> dict[str, str | None]:
        """Those of these steps that are taken here, each with the limiter that its request passes.

        Where the webhook is off, a notice that is owed is left, as it is, to whoever has it on.
        """
        passed = {
            ValidateChannel: self._provider.lookup_limiter,
            AttemptCreation: self._provider.creation_limiter,
            SyncWebhook: self._webhook.limiter,
        }
        taken = kinds if self._policy.webhook_enabled else kinds - {SyncWebhook}
        return {kind.__name__: passed.get(kind) for kind in taken}

    @property
    def max_claimed(self) -> int:
        """How many sessions that are claimed towards creation can be served at once: more would only wait here for a place.

        One, where those who open sessions here have all places: what is claimed gets its turn among them.
        """
        return max(1, self._policy.limiter.calls_per_process - self._unclaimed_calls)

    @asynccontextmanager
    async def _place(self, run: Run) -> AsyncIterator[None]:
        """A place for a call, from when there is one."""
        unclaimed = run.claim is None
        self._unclaimed_calls += unclaimed
        try:
            async with self._calls:
                yield
        finally:
            self._unclaimed_calls -= unclaimed

    async def carry_on(self, run: Run) -> Session:
        """Take every step of the run's kinds that is due, then give the session back for what is due later.

        Returns the session as it is then. Raises `ServiceError` when a service cannot be used: whatever was accepted is
        recorded, and due again soon.
        """
        try:
            self._end(run)
            # Once it is given back, a step that falls due meanwhile is for whoever has claimed it by then.
            while run.held and (step := run.due(self._clock.now(), self._policy)) is not None:
                try:
                    await self._take(run, step)
                except RequestDenied as back:
                    self._put_off(run, self._deferral(back.limiter, back.held))
            await self._recorder.give_back(run)
        except WrongExpectedVersion:
            # Another worker took the session on, since this one's lease had lapsed, or a person decided. What they recorded
            # counts. If the lease is still this run's, nobody is to wait for its end.
            await self._recorder.let_go(run, 0)
            return await self._recorder.recorded(run)
        except LeaseLost:
            # Nothing is given back: it lapses any moment, and who is too slow to use a lease must not be back at once.
            waiting.warning("session %s is given up here, and nothing more is sent: its lease has lapsed", run.state.id)
            return await self._recorder.recorded(run)
        except ServiceError:
            await self._recorder.let_go(run, round(SERVICE_DOWN_DELAY_MS * (0.5 + self._clock.jitter())))
            raise
        return run.state

    async def _take(self, run: Run, step: Step) -> None:
        match step:
            case ValidateChannel():
                await self._validate_channel(run)
            case AttemptCreation():
                async with self._place(run):
                    await self._attempt_creation(run)
            case SyncWebhook():
                await self._sync_webhook(run)
            case ExpireToken():
                run.propose(decide(run.state, Expire(now=self._clock.now()), self._policy))
            case _:
                assert_never(step)

    async def _validate_channel(self, run: Run) -> None:
        if self._knows_channel(run):
            return
        if given_up := decide(run.state, BeginLookup(now=self._clock.now()), self._policy):
            run.propose(given_up)
            return
        await self._recorder.record(run, hold=True)
        passage = run.passage(self._provider.lookup_limiter, ValidateChannel)
        async with self._place(run):
            if self._knows_channel(run):  # others have asked while this one waited
                return
            outcome = await self._lookups.ask(run.state.channel_id, passage, run.lease, run.state.id)
        if isinstance(outcome, Denied):
            self._defer(run, passage, outcome)
            return
        now, jitter = self._clock.now(), self._clock.jitter()
        await self._recorder.settle(run, RecordLookup(outcome=outcome, now=now, jitter=jitter), None)

    def _knows_channel(self, run: Run) -> bool:
        """Take a recent answer about its channel for the look-up, if one is remembered."""
        known = self._provider.known_channel(run.state.channel_id)
        if known is not None:
            command = RecordLookup(outcome=known, now=self._clock.now(), jitter=self._clock.jitter())
            run.propose(decide(run.state, command, self._policy))
        return known is not None

    async def _attempt_creation(self, run: Run) -> None:
        prepared = self._provider.prepare(run.state)
        passage = run.passage(self._provider.creation_limiter, AttemptCreation)
        if not await self._announce(run, prepared.sha256, passage):
            return
        attempt, deferral = run.state.attempts, None
        sending = Sending(run, passage, self._leases, self._gates)
        try:
            outcome = await self._provider.create(prepared, str(run.state.id), sending.check)
            hearing = sending.heard(outcome)
        except LeaseLost as lost:
            # Only this run knows: untold, the attempt would be in doubt, and maybe a person asked about it.
            unsent, hearing = sending.not_sent(lost)
            await self._recorder.settle_late(run, self._came_of(attempt, unsent), hearing)
            raise
        except ServiceError as error:
            outcome, hearing = sending.not_sent(error)
            deferral = self._deferral(error.limiter, error.held) if isinstance(error, RequestDenied) else None
        await self._recorder.settle(run, self._came_of(attempt, outcome), hearing, deferral=deferral)

    def _came_of(self, attempt: int, outcome: CreationOutcome) -> RecordAttempt:
        return RecordAttempt(attempt=attempt, outcome=outcome, now=self._clock.now(), jitter=self._clock.jitter())

    async def _announce(self, run: Run, request_sha256: str, passage: AdmissionRequest) -> bool:
        """Record that the attempt is about to be made; False where it is not to be made now."""
        decided = self._begun(run, request_sha256)
        # Only for an attempt: that the last one was lost, or that the deadline has passed, is recorded whatever can be sent.
        if _is_announced(decided) and not self._provider.is_ready:
            await self._recorder.record(run, hold=True)
            await self._provider.ready()
            decided = self._begun(run, request_sha256)
        before, proposed = run.state, list(run.proposed)
        run.propose(decided)
        if not _is_announced(decided):
            return False
        # The attempt is committed before its POST: a crash from here on leaves an attempt that is known to be in doubt.
        try:
            await self._recorder.record(run, hold=True, passage=passage)
        except AppendDenied as back:
            run.state, run.proposed = before, proposed
            self._defer(run, passage, back.held)
            return False
        return True

    def _begun(self, run: Run, request_sha256: str) -> list[Event]:
        begin = BeginAttempt(request_sha256=request_sha256, now=self._clock.now(), jitter=self._clock.jitter())
        return decide(run.state, begin, self._policy)

    def _end(self, run: Run) -> None:
        """Take it as happened that the token has expired, where that is what the session was claimed for."""
        claim = run.claim
        if claim is not None and claim.ended and claim.step == SyncWebhook.__name__:
            # By a slow clock here it would not have expired yet, and be claimed again at once, until this clock says so.
            now = max(self._clock.now(), claim.claimed_at)
            run.propose(decide(run.state, Expire(now=now), self._policy))
            run.kinds = frozenset()

    async def _sync_webhook(self, run: Run) -> None:
        run.propose(decide(run.state, Expire(now=self._clock.now()), self._policy))
        await self._recorder.record(run, hold=True)  # the token's time has come, however long the receiver takes
        began_at = await self._webhook_begins(run)
        if began_at is None:
            run.kinds = frozenset()  # it is given back, and stays behind its limiter
            return
        delivered = await self._call_webhook(run)
        now, jitter = self._clock.now(), self._clock.jitter()
        hearing = heard_of_webhook(self._webhook.limiter, delivered, began_at, self._policy.webhook.max_wait_ms)
        await self._recorder.settle(run, RecordDelivery(outcome=delivered, now=now, jitter=jitter), hearing)

    async def _webhook_begins(self, run: Run) -> datetime | None:
        """When the call of the webhook that is now to be made begins, by the database's clock; `None`: its limiter holds it back.

        Only a limiter that was known when the session was claimed is asked. Not this machine's time: a limiter would take the answer
        for one of before it closed, or of after, by how wrong that is.
        """
        claim, limiter = run.claim, self._webhook.limiter
        if claim is None or claim.slot_ms is None:
            self._leases.check(run.lease, run.state.id)
            return claim.claimed_at if claim is not None else self._clock.now()
        # Its retries have a schedule of their own, and no part in a limiter's budget.
        admitted = await self._gates.admit(replace(run.passage(limiter, SyncWebhook), retry=False))
        if isinstance(admitted, Denied):
            return None
        try:
            self._leases.check(run.lease, run.state.id)
        except LeaseLost:
            with suppress(ServiceError):
                await self._gates.observe(not_sent(limiter, admitted.at))
            raise
        return admitted.at

    async def _call_webhook(self, run: Run) -> Delivered:
        """What comes of the call. A token whose time comes meanwhile is recorded as expired then, not with the answer."""
        async with asyncio.TaskGroup() as calling:
            call = calling.create_task(self._webhook.send(run.state))
            expires_at = run.state.expires_at if run.state.status is Status.ACTIVE else None
            left = None if expires_at is None else max(0.0, (expires_at - self._clock.now()).total_seconds())
            await asyncio.wait((call,), timeout=left)
            if expires_at is not None and not call.done():
                now = max(self._clock.now(), expires_at)  # timers go by another clock
                run.propose(decide(run.state, Expire(now=now), self._policy))
                # Where that fails, it stays to be recorded with the answer, which must not be lost for it.
                with suppress(WrongExpectedVersion, ServiceError):
                    await self._recorder.record(run, hold=True)
        return call.result()

    def _defer(self, run: Run, passage: AdmissionRequest, held: Denied) -> None:
        """Take it as happened that the request has to wait: the run then has nothing due, and gives the session back."""
        # Where others only come first, a claimed session just goes back among them: the next claim comes with a slot.
        by_turns = run.claim is not None and held.by is DenialReason.PACE
        self._put_off(run, None if by_turns else self._deferral(passage.limiter, held))

    def _put_off(self, run: Run, deferral: Defer | None) -> None:
        if deferral is not None:
            run.propose(decide(run.state, deferral, self._policy))
        run.kinds = frozenset()  # whatever this machine's clock says: a limiter goes by the database's

    def _deferral(self, limiter: str, held: Denied) -> Defer:
        return Defer(limiter=limiter, held=held, now=self._clock.now(), jitter=self._clock.jitter())


def _is_announced(decided: list[Event]) -> bool:
    return any(isinstance(event, CreationAttempted) for event in decided)
