"""One session at work: what is recorded, and what is decided beyond that."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from guestledger.engine.domain.due import DueStep, StepName, due_steps
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve, fold
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import Lease, StepChanges
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.due_steps import Claim
from guestledger.engine.worker.leases import HeldLease, Leases


def session_of(history: Sequence[RecordedEvent]) -> Session:
    """The session that a whole stream of at least one event describes."""
    return fold(history[0].stream_id, (recorded.event for recorded in history))


def step_changes(
    before: Iterable[DueStep],
    after: Iterable[DueStep],
    *,
    mine: Iterable[StepName] = (),
    lease: Lease | None = None,
    erased: bool,
) -> StepChanges:
    """How the due steps change. `mine` and `lease`: see `StepChanges`.

    `erased`: the contact data is gone. Its erasure may have been planned by a process with another retention.
    """
    was = {step.step: step.due_at for step in before}
    due = {step.step: step for step in after}
    owned = frozenset(mine) & due.keys()
    changed = tuple(step for name, step in due.items() if name in owned or was.get(name) != step.due_at)
    planned = was.keys() | {StepName.ERASE_CONTACT} if erased else was.keys()
    return StepChanges(due=changed, mine=owned, lease=lease, done=frozenset(planned - due.keys()))


class SessionWork:
    """A session, the lease under which one process works on it, and the decisions that are not recorded yet.

    The executor and what it calls change it: one task at a time. `claim` is how a worker got it; `None`: its caller opens
    the session.
    """

    def __init__(
        self,
        recorded: Session,
        *,
        actor: str,
        lease: Lease,
        correlation_id: str,
        idempotency_key: str | None = None,
        claim: Claim | None = None,
    ) -> None:
        self.recorded = recorded
        self.state = recorded
        self.proposed: list[Event] = []
        self.actor = actor
        self.lease = lease
        self.held: HeldLease | None = None
        """What keeps the lease alive; `None`: nothing may be sent."""
        self.correlation_id = correlation_id
        self.idempotency_key = idempotency_key
        self.claim = claim
        self.reserved = claim.step if claim is not None and claim.reserved_ms is not None else None
        self.must_ask = self.reserved is not None
        """See `StepContext.must_ask`."""
        self.started_at: datetime | None = None
        """When it was claimed, handed over or last recorded, by the database's clock; `None`: not yet."""
        self._started_on = 0.0
        if claim is not None:
            self.start(claim.claimed_at)
        self.leased_at: float | None = None
        """When the lease was last asked for (`Leases.now`)."""
        self.unconfirmed_append_id: UUID | None = None
        """The causation of an append whose fate is unknown."""
        self.counts: Counter[str] = Counter()
        """How many events of each type were recorded."""
        self._due: tuple[Session, tuple[DueStep, ...]] | None = None
        self._recorded_due: tuple[DueStep, ...] | None = None if recorded.version else ()

    @classmethod
    def of(cls, history: Sequence[RecordedEvent], *, actor: str, lease: Lease, claim: Claim | None) -> "SessionWork":
        """Work on a session that is recorded: `history` is its whole stream."""
        return cls(session_of(history), actor=actor, lease=lease, correlation_id=history[0].correlation_id, claim=claim)

    def start(self, at: datetime) -> None:
        """Count the time of claimed work from here on: the database's clock shows `at` now."""
        self.started_at, self._started_on = at, Leases.now()

    def now(self, clock: Clock) -> datetime:
        """The time (UTC). Claimed work counts on from the last time that the database named, by a monotonic clock.

        `clock` copies the database's clock, and is wrong for a while after that stepped. It dates the events of
        `open_session` and of a webhook call handed over.
        """
        if self.claim is not None and self.started_at is not None:
            return self.started_at + timedelta(seconds=Leases.now() - self._started_on)
        now = clock.now()
        return now if self.started_at is None else max(now, self.started_at)

    def propose(self, events: Iterable[Event]) -> None:
        """Take events as happened. They are recorded before any effect depends on them."""
        for event in events:
            self.state = evolve(self.state, event)
            self.proposed.append(event)

    def confirm(self, recorded: Session, due: tuple[DueStep, ...]) -> None:
        """Everything up to this state, with its due steps, is recorded."""
        self.recorded = self.state = recorded
        self._due, self._recorded_due = (recorded, due), due
        self.proposed, self.unconfirmed_append_id = [], None

    def due_steps(self, policy: Policy) -> tuple[DueStep, ...]:
        """The due steps of `state`."""
        if self._due is None or self._due[0] is not self.state:
            self._due = self.state, due_steps(self.state, policy)
        return self._due[1]

    def recorded_due_steps(self, policy: Policy) -> tuple[DueStep, ...]:
        """The due steps of `recorded`: none before its first event."""
        if self._recorded_due is None:
            self._recorded_due = due_steps(self.recorded, policy)
        return self._recorded_due
