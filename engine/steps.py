"""Carrying a session forward: what `next_step` names is done, and what comes of it is recorded.

Three rules make a crash harmless anywhere in here. Nothing is sent before what was decided is committed; every append
names the version it was decided on, so that of two workers on one session only one gets through to an effect; and nothing
is sent under a lease that was not renewed within its span, so that one who stood still in between sends nothing late.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import assert_never

from engine.domain.commands import BeginAttempt, Command, Defer, Expire, RecordAttempt, RecordDelivery, RecordLookup
from engine.domain.errors import ServiceError, WrongExpectedVersion
from engine.domain.events import Event, FailureKind, wire_name
from engine.domain.hearing import heard, heard_of_webhook, unasked
from engine.domain.lifecycle import (
    AttemptCreation,
    ExpireToken,
    Policy,
    Step,
    SyncWebhook,
    ValidateChannel,
    decide,
    ends_at,
    next_step,
)
from engine.domain.outcomes import Failed
from engine.domain.passing import Hearing, Held, Hold, Passage
from engine.domain.recorded import RecordedEvent
from engine.domain.session import Session, Status, evolve, fold
from engine.leases import LeaseLost, Leases
from engine.lookups import LookUps
from engine.ports import (
    Append,
    Claim,
    Clock,
    Due,
    DueWork,
    EventStore,
    Gates,
    HeldBack,
    Lease,
    MessagingProvider,
    WebhookSender,
)

logger = logging.getLogger("guestledger")

StepKinds = frozenset[type[Step]]
TOWARDS_CREATION: StepKinds = frozenset({ValidateChannel, AttemptCreation})

# How long a session rests when the service it needs cannot be used at all. Nothing happened to the session, so there is
# no event, and none of its attempts is used up.
SERVICE_DOWN_DELAY_MS = 2_000
# How long work rests that is none under this policy: a webhook that is still owed, and switched off.
NOTHING_DUE_REST = timedelta(days=1)


def of_history(history: Sequence[RecordedEvent]) -> Session:
    """The session that these events tell; `history` is a whole stream of at least one event."""
    return fold(history[0].stream_id, (recorded.event for recorded in history))


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


def _trace(state: Session, command: Command) -> None:
    """Tell of an answer that came after others had gone on, and that the history has no need of."""
    match command:
        case RecordAttempt():
            answer = f"the answer to attempt {command.attempt} ({type(command.outcome).__name__.lower()})"
        case RecordLookup():
            answer = f"the answer to its channel look-up ({type(command.outcome).__name__.lower()})"
        case RecordDelivery(outcome=outcome):
            answer = f"the webhook's answer ({f'HTTP {outcome.status}' if outcome.status else 'no answer'})"
        case _:
            return
    logger.warning("session %s: %s came late and tells nothing new: it is not recorded", state.id, answer)


class Run:
    """One session being taken forward: how far it is recorded, and what has been decided beyond that.

    `kinds` are the steps that this run may take, `actor` is who takes them, under `lease`. `claim` is what it came by; `None`:
    its caller opens the session.
    """

    def __init__(
        self,
        state: Session,
        *,
        kinds: StepKinds,
        actor: str,
        lease: Lease,
        correlation_id: str,
        idempotency_key: str | None = None,
        claim: Claim | None = None,
    ) -> None:
        self.state = state
        self.kinds = kinds
        self.actor = actor
        self.lease = lease
        self.correlation_id = correlation_id
        self.idempotency_key = idempotency_key
        self.recorded = state.version
        self.recorded_at: datetime | None = None
        self.proposed: list[Event] = []
        self.held = True
        self.claim = claim
        self.slot = claim.step if claim is not None and claim.slot_ms is not None else None
        self.tally: Counter[str] = Counter()

    @classmethod
    def of(
        cls,
        history: Sequence[RecordedEvent],
        kinds: StepKinds,
        actor: str,
        lease: Lease,
        claim: Claim | None = None,
    ) -> "Run":
        """A run that goes on from what is recorded: `history` is a whole stream of at least one event."""
        correlation_id = history[0].correlation_id
        return cls(
            of_history(history), kinds=kinds, actor=actor, lease=lease, correlation_id=correlation_id, claim=claim
        )

    def passage(self, gate: str, step: type[Step]) -> Passage:
        """The request that `step` is about to make through `gate`. A slot is good for one."""
        slotted, self.slot = self.slot == step.__name__, None
        return Passage(gate=gate, retry=self.state.is_retried, slotted=slotted)

    def propose(self, events: Iterable[Event]) -> None:
        """Take events as happened; `Steps` records them before anything is done on their account."""
        for event in events:
            self.state = evolve(self.state, event)
            self.proposed.append(event)


class Steps:
    """Takes sessions forward, each under its run's lease."""

    def __init__(
        self,
        *,
        store: EventStore,
        due_work: DueWork,
        provider: MessagingProvider,
        webhook: WebhookSender,
        gates: Gates,
        clock: Clock,
        policy: Policy,
        leases: Leases,
    ) -> None:
        self._store = store
        self._due_work = due_work
        self._provider = provider
        self._webhook = webhook
        self._gates = gates
        self._clock = clock
        self._policy = policy
        self._leases = leases
        self._calls = asyncio.Semaphore(policy.gate.calls_per_process)
        self._lookups = LookUps(provider, gates, leases)

    def gates(self, kinds: StepKinds) -> dict[str, str | None]:
        """The steps of these kinds, each with the gate that its request passes."""
        passed = {
            ValidateChannel: self._provider.lookup_gate,
            AttemptCreation: self._provider.creation_gate,
            SyncWebhook: self._webhook.gate,
        }
        return {kind.__name__: passed.get(kind) for kind in kinds}

    async def carry_on(self, run: Run) -> Session:
        """Take every step of the run's kinds that is due, then give the session back for what is due later.

        Returns the session as it is then. Raises `ServiceError` when a service cannot be used: whatever was accepted is
        recorded, and due again soon.
        """
        try:
            # Once it is given back, a step that falls due meanwhile is for whoever has claimed it by then.
            while run.held and (step := self._due(run)) is not None:
                await self._take(run, step)
            await self._give_back(run)
        except WrongExpectedVersion:
            # Another worker took the session on, since this one's lease had lapsed, or a person decided. What they recorded
            # counts. If the lease is still this run's, nobody is to wait for its end.
            with suppress(ServiceError):
                await self._due_work.release(run.lease.owner, run.state.id, 0)
            return of_history(await self._store.read_stream(run.state.id))
        except LeaseLost:
            # Nothing is given back: it lapses any moment, and who is too slow to use a lease must not be back at once.
            logger.warning("session %s is given up here, nothing was sent: its lease has lapsed", run.state.id)
            return of_history(await self._store.read_stream(run.state.id))
        except ServiceError:
            with suppress(ServiceError):
                await self._due_work.release(run.lease.owner, run.state.id, SERVICE_DOWN_DELAY_MS)
            raise
        return run.state

    def _due(self, run: Run) -> Step | None:
        step = next_step(run.state, self._policy)
        due = step is not None and type(step) in run.kinds and step.not_before <= self._clock.now()
        return step if due else None

    async def _take(self, run: Run, step: Step) -> None:
        match step:
            case ValidateChannel():
                await self._validate_channel(run)
            case AttemptCreation():
                await self._attempt_creation(run)
            case SyncWebhook():
                await self._sync_webhook(run)
            case ExpireToken():
                run.propose(decide(run.state, Expire(now=self._clock.now()), self._policy))
            case _:
                assert_never(step)

    async def _validate_channel(self, run: Run) -> None:
        known = self._provider.known_channel(run.state.channel_id)
        if known is not None:
            command = RecordLookup(outcome=known, now=self._clock.now(), jitter=self._clock.jitter())
            run.propose(decide(run.state, command, self._policy))
            return
        await self._record(run, hold=True)
        passage = run.passage(self._provider.lookup_gate, ValidateChannel)
        async with self._calls:
            outcome = await self._lookups.ask(run.state.channel_id, passage, run.lease, run.state.id)
        if isinstance(outcome, Held):
            self._defer(run, passage, outcome)
            return
        now, jitter = self._clock.now(), self._clock.jitter()
        await self._settle(run, RecordLookup(outcome=outcome, now=now, jitter=jitter), None)

    async def _attempt_creation(self, run: Run) -> None:
        async with self._calls:
            await self._attempt_creation_in_turn(run)

    async def _attempt_creation_in_turn(self, run: Run) -> None:
        if not self._provider.is_ready:
            await self._record(run, hold=True)
            await self._provider.ready()
        prepared = self._provider.prepare(run.state)
        before, proposed = run.state, list(run.proposed)
        passage = run.passage(self._provider.creation_gate, AttemptCreation)
        begin = BeginAttempt(request_sha256=prepared.sha256, now=self._clock.now(), jitter=self._clock.jitter())
        run.propose(decide(run.state, begin, self._policy))
        if run.state.status is not Status.ATTEMPTING:
            return
        # The attempt is committed before its POST: a crash from here on leaves an attempt that is known to be in doubt.
        try:
            await self._record(run, hold=True, passage=passage)
        except HeldBack as back:
            run.state, run.proposed = before, proposed
            self._defer(run, passage, back.held)
            return
        attempt, began_at = run.state.attempts, run.recorded_at
        assert began_at is not None
        try:
            self._leases.check(run.lease, run.state.id)
        except LeaseLost:
            await self._settle_unsent(run, attempt, unasked(passage.gate, began_at))
            raise
        outcome = await self._provider.create(prepared, str(run.state.id))
        now, jitter = self._clock.now(), self._clock.jitter()
        hearing = heard(passage.gate, outcome, began_at)
        await self._settle(run, RecordAttempt(attempt=attempt, outcome=outcome, now=now, jitter=jitter), hearing)

    async def _sync_webhook(self, run: Run) -> None:
        run.propose(decide(run.state, Expire(now=self._clock.now()), self._policy))
        if run.claim is not None and run.claim.ended:
            run.kinds = frozenset()
            return
        # Not this machine's time: a gate would take the answer for one of before it closed, or of after, by how wrong that is.
        began_at = run.claim.claimed_at if run.claim is not None else self._clock.now()
        self._leases.check(run.lease, run.state.id)
        delivered = await self._webhook.send(run.state)
        now, jitter = self._clock.now(), self._clock.jitter()
        hearing = heard_of_webhook(self._webhook.gate, delivered, began_at)
        await self._settle(run, RecordDelivery(outcome=delivered, now=now, jitter=jitter), hearing)

    def _defer(self, run: Run, passage: Passage, held: Held) -> None:
        """Take it as happened that the request has to wait: the run then has nothing due, and gives the session back."""
        now, jitter = self._clock.now(), self._clock.jitter()
        # Where others only come first, a claimed session just goes back among them: the next claim comes with a slot.
        if run.claim is None or held.by is not Hold.PACE:
            run.propose(decide(run.state, Defer(gate=passage.gate, held=held, now=now, jitter=jitter), self._policy))
        run.kinds = frozenset()  # whatever this machine's clock says: a gate goes by the database's

    async def _settle(self, run: Run, command: Command, hearing: Hearing | None) -> None:
        """Record what came back, whatever has become of the stream since: an outcome is never dropped for a conflict."""
        run.propose(decide(run.state, command, self._policy))
        try:
            await self._record(run, hold=self._due(run) is not None, hearing=hearing)
        except WrongExpectedVersion:
            await self._settle_late(run, command, hearing)
            raise

    async def _settle_unsent(self, run: Run, attempt: int, hearing: Hearing) -> None:
        # Only this run knows that nothing was sent: untold, the attempt would be in doubt, and maybe a person asked about it.
        unsent = Failed(kind=FailureKind.UNSENT, status=None, message="the lease had lapsed before it could be sent")
        now, jitter = self._clock.now(), self._clock.jitter()
        await self._settle_late(run, RecordAttempt(attempt=attempt, outcome=unsent, now=now, jitter=jitter), hearing)

    async def _settle_late(self, run: Run, command: Command, hearing: Hearing | None) -> None:
        while True:
            history = await self._store.read_stream(run.state.id)
            late = Run.of(history, run.kinds, run.actor, run.lease)
            late.propose(decide(late.state, command, self._policy))
            if not late.proposed:
                if hearing is not None:  # the history may have no need of it, but the API wants peace all the same
                    await self._gates.hear(hearing)
                _trace(run.state, command)
                return
            with suppress(WrongExpectedVersion):
                await self._append(late, self._due_after(late.state, keep_lease=True), hearing=hearing)
                run.tally.update(late.tally)
                return

    async def _give_back(self, run: Run) -> None:
        """Record what is left to be recorded and free the session for whoever takes the next step."""
        if run.proposed:
            await self._record(run, hold=False)
        elif run.held:
            step = next_step(run.state, self._policy)
            rest = step.not_before - self._clock.now() if step else NOTHING_DUE_REST
            delay_ms = max(0, -(-rest // timedelta(milliseconds=1)))
            # Another step may have been due where the row was written: the webhook has been switched on or off since. Left
            # as it was, the row would be claimed for that step without end.
            await self._due_work.release(run.lease.owner, run.state.id, delay_ms, type(step).__name__ if step else None)

    async def _record(
        self, run: Run, *, hold: bool, passage: Passage | None = None, hearing: Hearing | None = None
    ) -> None:
        if run.proposed:
            due = self._due_after(run.state, lease=run.lease if hold else None)
            await self._append(run, due, passage=passage, hearing=hearing)
            run.held = hold

    async def _append(
        self, run: Run, due: Due | None, *, passage: Passage | None = None, hearing: Hearing | None = None
    ) -> None:
        asked_at = self._leases.now()
        appended = await self._store.append(
            Append(
                stream_id=run.state.id,
                expected_version=run.recorded,
                events=tuple(run.proposed),
                due=due,
                actor=run.actor,
                causation_id=self._clock.new_id(),
                correlation_id=run.correlation_id,
                idempotency_key=None if run.recorded else run.idempotency_key,
                passage=passage,
                hearing=hearing,
            )
        )
        if due is not None and due.lease is not None:
            self._leases.renewed(run.lease, run.state.id, asked_at)
        run.recorded, run.recorded_at = appended.version, appended.recorded_at
        run.tally.update(map(wire_name, run.proposed))
        run.proposed = []

    def _due_after(self, state: Session, *, lease: Lease | None = None, keep_lease: bool = False) -> Due | None:
        return due_after(state, self._policy, lease=lease, keep_lease=keep_lease)
