"""Two workers on one session, stalled and overtaking each other as they please: CXone's sessions are never lost from sight."""

from hypothesis import given
from hypothesis import strategies as st

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import BeginAttempt, Command, OpenSession, RecordAttempt, RecordLookup
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.outcomes import Created, CreationOutcome
from guestledger.engine.domain.session import Session, Status
from tests.property.invariants import Life
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    creations,
    patient_policies,
    policies,
)


class Worker:
    """Decides on what it has read, and gets through only where nobody has recorded anything since; as `Steps` does."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.seen: Session = life.state
        self.sent: int | None = None

    def read(self) -> None:
        self.seen = self.life.state

    def send(self) -> None:
        """Begin an attempt, recorded before it is sent; turned away where the session has moved on."""
        if self.sent is not None:
            return
        command = BeginAttempt(request_sha256="ab", now=START, jitter=0.5)
        if self.seen.version == self.life.state.version:
            for event in self.life.take(command):
                self.sent = event.attempt if isinstance(event, e.CreationAttempted) else self.sent
        self.read()

    def die(self) -> int | None:
        """Leave the answer untold, whatever CXone has made; the attempt that it was to."""
        attempt, self.sent = self.sent, None
        self.read()
        return attempt

    def settle(self, outcome: CreationOutcome) -> str | None:
        """Record the answer, decided anew on what is recorded by then; CXone's id of what it made."""
        attempt, self.sent = self.sent, None
        if attempt is None:
            return None
        command = RecordAttempt(attempt=attempt, outcome=outcome, now=START, jitter=0.5)
        self.life.take(command)
        self.read()
        return outcome.session_id if isinstance(outcome, Created) else None


moves = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from(["read", "send", "send", "settle", "die"]), creations | creation_outcomes
    ),
    min_size=10,
    max_size=40,
)


@given(policy=patient_policies | policies, moves=moves)
def test_two_interleaved_workers_never_lose_a_session_of_the_provider(
    policy: Policy, moves: list[tuple[int, str, CreationOutcome]]
) -> None:
    life = Life(policy)
    first: list[Command] = [
        OpenSession(request=CONSENTING, now=START),
        RecordLookup(outcome=USABLE, now=START, jitter=0.5),
    ]
    for command in first:
        life.take(command)
    workers, made, untold = (Worker(life), Worker(life)), set(), set()
    workers[0].send()
    workers[1].read()
    for _ in range(2):  # the first finds the other's attempt lost, which it is not
        workers[1].send()
    for number, move, outcome in moves:
        match move:
            case "read":
                workers[number].read()
            case "send":
                workers[number].send()
            case "die":
                untold.add(workers[number].die())
            case _:
                made.add(workers[number].settle(outcome))
    for number, worker in enumerate(workers):  # what is still in flight comes back at last
        late = Created(
            session_id=f"sess_late_{number}", guest_token="gt_1", expires_at=START, status="active", latency_ms=1
        )
        made.add(worker.settle(late))
    told = {event.session_id for event in life.history if isinstance(event, e.SessionCreated | e.DuplicateCreated)}
    assert told == made - {None}
    doubted = {
        event.attempt
        for event in life.history
        if isinstance(event, e.CreationFailed) and event.kind is e.FailureKind.IN_DOUBT
    }
    ended = (e.SessionCreated, e.DuplicateCreated, e.DoubtLifted)
    certain = {event.attempt for event in life.history if isinstance(event, ended)}
    assert doubted - certain <= set(life.state.in_doubt) <= doubted
    if life.state.status is Status.ATTEMPTING:  # somebody takes it on
        life.take(BeginAttempt(request_sha256="ab", now=START, jitter=0.5))
    assert untold - {None} <= {*life.state.in_doubt}, "what may have been made and is told nowhere is in doubt"
