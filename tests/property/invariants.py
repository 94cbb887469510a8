"""What holds for every session whatever happens to it: checked event by event while a history grows."""

from collections import Counter
from datetime import timedelta
from uuid import UUID

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import Command, OpenSession, RecordAttempt
from guestledger.engine.domain.lifecycle import Policy, decide, next_step
from guestledger.engine.domain.outcomes import Created
from guestledger.engine.domain.session import Session, Status, evolve, fold
from guestledger.engine.limits.retry import InDoubt
from tests.transitions import is_legal

SESSION = UUID("018f96c2-7a60-7000-8000-0000000000a1")
OVER = {Status.PARKED, Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED}


class Life:
    """A session that takes commands, and holds its history to the laws."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state = Session(id=SESSION)
        self.history: list[e.Event] = []

    def take(self, command: Command) -> list[e.Event]:
        """The events that `command` makes, now part of the history."""
        before = self.state
        decided = decide(before, command, self.policy)
        assert decided == decide(self.state, command, self.policy), "a decision depends on its arguments alone"
        for event in decided:
            self._add(event)
        if isinstance(command, OpenSession | RecordAttempt):
            assert decide(self.state, command, self.policy) == [], "the same news is no news"
        if isinstance(command, RecordAttempt):
            self._check_answer(before, command, decided)
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
            case e.CreationDeferred():
                assert after.attempts == before.attempts
                assert not before.status.is_settled
            case e.CreationThrottled():
                assert event.retry_at >= event.at + timedelta(milliseconds=event.retry_after_ms)
                assert event.wait_ms >= event.retry_after_ms
            case e.CreationFailed():
                assert (event.retry_at is None) == event.kind.is_final
                assert (after.status is Status.REJECTED) == event.kind.is_final
                assert (after.status is Status.IN_DOUBT) == (event.kind is e.FailureKind.IN_DOUBT)
            case e.SessionCreated():
                assert before.session_id is None
                assert 1 <= event.attempt <= before.attempts
            case e.DuplicateCreated():
                assert before.status.is_settled
                assert event.session_id not in {before.session_id, *before.duplicates}
                assert after.session_id == before.session_id
            case e.GuestTokenFound():
                assert (before.status, before.guest_token) == (Status.ACTIVE, None)
                assert before.session_id is not None
            case e.DoubtLifted():
                assert event.attempt in before.in_doubt
                assert event.retry_at is None or event.attempt == before.attempts
            case e.SessionParked():
                assert before.status is Status.IN_DOUBT
                assert self.policy.creation.in_doubt is InDoubt.PARK
            case e.RetryDecided() | e.AbandonmentDecided() | e.SessionAdopted():
                assert before.status is Status.PARKED
            case e.WebhookFailed():
                assert event.wait_ms >= (event.retry_after_ms or 0)
                assert event.wait_ms >= self.policy.webhook.waits_ms[before.webhook_failures]
                assert event.status != 410
            case e.WebhookRedeliveryRequested():
                assert before.webhook_settled
        self.state = after
        self.history.append(event)

    def _check_answer(self, before: Session, command: RecordAttempt, decided: list[e.Event]) -> None:
        own, late = decided, before.status is Status.ATTEMPTING and command.attempt != before.attempts
        if late and isinstance(command.outcome, Created) and decided:
            overtaken, *own = decided
            assert isinstance(overtaken, e.CreationFailed)
            assert (overtaken.attempt, overtaken.kind) == (before.attempts, e.FailureKind.IN_DOUBT)
        for event in own:
            if isinstance(event, e.CreationThrottled | e.CreationFailed | e.SessionCreated | e.DuplicateCreated):
                assert event.attempt == command.attempt, "an answer belongs to its own attempt"
        was_made = 1 <= command.attempt <= before.attempts
        if isinstance(command.outcome, Created) and was_made:
            known = {self.state.session_id, *self.state.duplicates}
            assert command.outcome.session_id in known, "no remote session is lost from sight"
            assert before.status.is_settled or self.state.status is Status.ACTIVE

    def _check_whole(self) -> None:
        state = self.state
        assert state == fold(SESSION, self.history)
        assert state.version == len(self.history)
        seen = Counter(type(event) for event in self.history)
        made = seen[e.SessionCreated] + seen[e.SessionAdopted]
        assert made <= 1
        assert (state.status in {Status.ACTIVE, Status.EXPIRED}) == bool(made)
        assert state.throttles == seen[e.CreationThrottled]
        retried = [number for number, event in enumerate(self.history) if isinstance(event, e.RetryDecided)]
        lately = self.history[retried[-1] if retried else 0 :]
        assert state.failures == sum(isinstance(event, e.CreationFailed) and event.kind.counts for event in lately)
        assert state.lookups == seen[e.ChannelLookupFailed]
        assert len(state.duplicates) == seen[e.DuplicateCreated]
        assert state.webhook_attempts == seen[e.WebhookSynced] + seen[e.WebhookFailed] + seen[e.WebhookAbandoned]
        attempts = [event.attempt for event in self.history if isinstance(event, e.CreationAttempted)]
        assert attempts == list(range(1, state.attempts + 1))
        if state.status in {Status.PENDING, Status.THROTTLED, Status.IN_DOUBT}:
            policy = self.policy.creation
            assert state.deadline_from is not None
            assert state.due_since <= state.deadline_from + timedelta(milliseconds=policy.deadline_ms)
            assert max(state.failures, state.lookups_failed) < policy.max_failures
        ours_to_do = self.policy.webhook_enabled and bool(made) and not state.webhook_settled
        over = state.status in OVER | {Status.NEW} and not ours_to_do
        assert (next_step(state, self.policy) is None) == over, "a session that is not over has a next step"
