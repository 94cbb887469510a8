"""One session being taken forward: how it stands, who works on it under which lease, and what is decided and not yet recorded."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.lifecycle import AttemptCreation, Policy, Step, ValidateChannel, next_step
from guestledger.engine.domain.session import Session, evolve, fold
from guestledger.engine.limits.policy import AdmissionRequest
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.work import Claim

StepKinds = frozenset[type[Step]]
TOWARDS_CREATION: StepKinds = frozenset({ValidateChannel, AttemptCreation})


def of_history(history: Sequence[RecordedEvent]) -> Session:
    """The session that these events tell; `history` is a whole stream of at least one event."""
    return fold(history[0].stream_id, (recorded.event for recorded in history))


class Run:
    """How far the session is recorded, and what has been decided beyond that.

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
        self.recorded_at: datetime | None = None  # as the limiters have it
        self.unconfirmed_append_id: UUID | None = None
        """The causation of an append that was not answered: it alone tells whether that went in."""
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

    def due(self, now: datetime, policy: Policy) -> Step | None:
        """The step to be taken now, if there is one that this run may take."""
        step = next_step(self.state, policy)
        return step if step is not None and type(step) in self.kinds and step.not_before <= now else None

    def passage(self, limiter: str, step: type[Step]) -> AdmissionRequest:
        """The request that `step` is about to make through `limiter`. A slot is good for one."""
        slotted, self.slot = self.slot == step.__name__, None
        return AdmissionRequest(limiter=limiter, retry=self.state.is_retried, slotted=slotted)

    def propose(self, events: Iterable[Event]) -> None:
        """Take events as happened; they are recorded before anything is done on their account."""
        for event in events:
            self.state = evolve(self.state, event)
            self.proposed.append(event)
