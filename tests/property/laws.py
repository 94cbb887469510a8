"""What holds for every session whatever happens to it: checked event by event while a history grows."""

from datetime import timedelta
from uuid import UUID

from engine.domain import events as e
from engine.domain.commands import Command, OpenSession, RecordAttempt
from engine.domain.lifecycle import Policy, decide, next_step
from engine.domain.session import Session, Status, evolve, fold
from tests.transitions import is_legal

SESSION = UUID("018f96c2-7a60-7000-8000-0000000000a1")
OVER = {Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED}


class Life:
    """A session that takes commands, and holds its history to the laws."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state = Session(id=SESSION)
        self.history: list[e.Event] = []

    def take(self, command: Command) -> list[e.Event]:
        """The events that `command` makes, now part of the history."""
        decided = decide(self.state, command, self.policy)
        assert decided == decide(self.state, command, self.policy), "a decision depends on its arguments alone"
        for event in decided:
            self._add(event)
        if isinstance(command, OpenSession | RecordAttempt):
            assert decide(self.state, command, self.policy) == [], "the same news is no news"
        self._check_whole()
        return decided

    def _add(self, event: e.Event) -> None:
        before, after = self.state, evolve(self.state, event)
        assert is_legal(before.status, after.status), (before.status, after.status)
        assert after.version == before.version + 1
        match event:
            case e.CreationAttempted():
                assert not before.status.is_settled
                assert before.channel_validated
                assert event.attempt == before.attempts + 1
                assert event.idempotency_key == str(SESSION)
            case e.CreationThrottled():
                assert event.retry_at >= event.at + timedelta(milliseconds=event.retry_after_ms)
                assert event.wait_ms >= event.retry_after_ms
            case e.SessionCreated():
                assert before.session_id is None
                assert 1 <= event.attempt <= before.attempts
            case e.DuplicateCreated():
                assert before.status.is_settled
                assert event.session_id not in {before.session_id, *before.duplicates}
                assert after.session_id == before.session_id
        self.state = after
        self.history.append(event)

    def _check_whole(self) -> None:
        state = self.state
        assert state == fold(SESSION, self.history)
        assert state.version == len(self.history)
        created = [event for event in self.history if isinstance(event, e.SessionCreated)]
        assert len(created) <= 1
        assert (state.status in {Status.ACTIVE, Status.EXPIRED}) == bool(created)
        attempts = [event.attempt for event in self.history if isinstance(event, e.CreationAttempted)]
        assert attempts == list(range(1, state.attempts + 1))
        ours_to_do = self.policy.webhook_enabled and bool(created) and not state.webhook_settled
        over = state.status in OVER | {Status.NEW} and not ours_to_do
        assert (next_step(state, self.policy) is None) == over, "a session that is not over has a next step"
