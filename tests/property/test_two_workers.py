"""Two workers on one session, delayed and interleaved in any way, never lose a session of the provider."""

from hypothesis import given, strategies as st

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    OpenSession,
    RecordAttempt,
    RecordLookup,
    SettleAttempt,
)
from guestledger.engine.domain.outcomes import Created, CreationOutcome, FailureKind
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from tests.property.invariants import Life
from tests.property.moves import DIGEST
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creation_outcomes,
    creations,
    patient_policies,
    policies,
)
from tests.unit.samples import HMAC_KEY


class Worker:
    """Decides on what it has read. An append on an older version is rejected, as the executor's is."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.seen: Session = life.state
        self.sent: int | None = None

    def read(self) -> None:
        self.seen = self.life.state

    def send(self) -> None:
        """Begin an attempt, recorded before it is sent; rejected if the session has changed since it was read."""
        if self.sent is None:
            for event in self._append(BeginAttempt(request_hmac=DIGEST, now=START)):
                self.sent = event.attempt if isinstance(event, e.CreationAttempted) else self.sent

    def settle(self) -> None:
        """Record the current attempt as in doubt: its lease has lapsed. Its sender may still be alive."""
        self._append(SettleAttempt(attempt=self.seen.attempts, now=START, jitter=0.5))

    def end(self) -> int | None:
        """End before the answer is recorded. Returns the attempt that it belonged to."""
        attempt, self.sent = self.sent, None
        self.read()
        return attempt

    def answer(self, outcome: CreationOutcome) -> str | None:
        """Record the answer, decided on what is recorded by then. Returns the id of the session that was made."""
        attempt, self.sent = self.sent, None
        if attempt is None:
            return None
        self.life.take(RecordAttempt(attempt=attempt, outcome=outcome, now=START, jitter=0.5))
        self.read()
        return outcome.session_id if isinstance(outcome, Created) else None

    def _append(self, command: Command) -> list[e.Event]:
        events = self.life.take(command) if self.seen.version == self.life.state.version else []
        self.read()
        return events


actions = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["read", "send", "send", "settle", "settle", "answer", "end"]),
        creations | creation_outcomes,
    ),
    min_size=10,
    max_size=40,
)


@given(policy=patient_policies | policies, actions=actions)
def test_two_interleaved_workers_never_lose_a_session_of_the_provider(
    policy: Policy, actions: list[tuple[int, str, CreationOutcome]]
) -> None:
    life = Life(policy)
    first: list[Command] = [
        OpenSession(hmac_key=HMAC_KEY, request=CONSENTING, now=START),
        RecordLookup(outcome=USABLE, now=START, jitter=0.5),
    ]
    for command in first:
        life.take(command)
    workers, made, unanswered = (Worker(life), Worker(life)), set(), set()
    workers[0].send()
    workers[1].read()
    workers[1].settle()  # the second takes the first's attempt for lost, although it is in flight
    workers[1].send()
    for number, action, outcome in actions:
        match action:
            case "read":
                workers[number].read()
            case "send":
                workers[number].send()
            case "settle":
                workers[number].settle()
            case "end":
                unanswered.add(workers[number].end())
            case _:
                made.add(workers[number].answer(outcome))
    for number, worker in enumerate(workers):  # answers that are still in flight arrive at last
        late = Created(
            session_id=f"sess_late_{number}", guest_token="gt_1", expires_at=START, status="active", latency_ms=1
        )
        made.add(worker.answer(late))
    known = {event.session_id for event in life.history if isinstance(event, e.SessionCreated | e.DuplicateCreated)}
    assert known == made - {None}
    doubted = {
        event.attempt
        for event in life.history
        if isinstance(event, e.CreationFailed) and event.kind is FailureKind.IN_DOUBT
    }
    ended = (e.SessionCreated, e.DuplicateCreated, e.DoubtLifted)
    certain = {event.attempt for event in life.history if isinstance(event, ended)}
    assert doubted - certain <= set(life.state.in_doubt) <= doubted
    if life.state.status is Status.ATTEMPTING:  # a worker settles it once its lease has lapsed
        life.take(SettleAttempt(attempt=life.state.attempts, now=START, jitter=0.5))
    assert unanswered - {None} <= {*life.state.in_doubt}, "an attempt whose answer is lost is in doubt"
