"""One session at work: what is recorded, and what is decided beyond that."""

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, evolve, fold
from guestledger.engine.log.appends import Lease, StepChanges
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.due_steps import Claim


def session_of(history: Sequence[RecordedEvent]) -> Session:
    """The session that a whole stream of at least one event describes."""
    return fold(history[0].stream_id, (recorded.event for recorded in history))


def step_changes(
    before: Session,
    after: Session,
    policy: Policy,
    *,
    mine: Iterable[StepName] = (),
    lease: Lease | None = None,
) -> StepChanges:
    """How the due steps change between two states. The lease on each step in `mine` becomes `lease` (`None`: nobody's)."""
    was = {step.step: step.due_at for step in due_steps(before, policy)} if before.version else {}
    due = due_steps(after, policy)
    owned = frozenset(mine) & {step.step for step in due}
    changed = tuple(step for step in due if step.step in owned or was.get(step.step) != step.due_at)
    return StepChanges(due=changed, mine=owned, lease=lease, done=frozenset(was) - {step.step for step in due})


class SessionWork:
    """A session, the lease under which one process works on it, and the decisions that are not recorded yet.

    Only the executor changes it. `claim` is how a worker got it; `None`: its caller opens the session.
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
        self.correlation_id = correlation_id
        self.idempotency_key = idempotency_key
        self.claim = claim
        self.reserved = claim.step if claim is not None and claim.reserved_ms is not None else None
        self.must_ask = self.reserved is not None
        """Whether the limiter of the claimed step knows something against its API."""
        self.started_at = None if claim is None else claim.claimed_at
        """When it was claimed or handed over, by the database's clock; `None`: neither."""
        self.leased_at: float | None = None
        """When the lease was last asked for (`Leases.now`)."""
        self.unconfirmed_append_id: UUID | None = None
        """The causation of an append whose fate is unknown: it alone tells whether that was recorded."""
        self.counts: Counter[str] = Counter()
        """How many events of each type were recorded."""

    @classmethod
    def of(cls, history: Sequence[RecordedEvent], *, actor: str, lease: Lease, claim: Claim | None) -> "SessionWork":
        """Work on a session that is recorded: `history` is its whole stream."""
        return cls(session_of(history), actor=actor, lease=lease, correlation_id=history[0].correlation_id, claim=claim)

    def propose(self, events: Iterable[Event]) -> None:
        """Take events as happened. They are recorded before any effect depends on them."""
        for event in events:
            self.state = evolve(self.state, event)
            self.proposed.append(event)

    def confirm(self, recorded: Session) -> None:
        """Everything up to this state is recorded."""
        self.recorded = self.state = recorded
        self.proposed, self.unconfirmed_append_id = [], None
