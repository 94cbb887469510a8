"""What holds for every session, whatever happens to it: checked after each event of a growing history."""

from collections import Counter
from datetime import timedelta
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import Command, DeferCreation, RecordAttempt, RecordDelivery, RecordLookup
from guestledger.engine.domain.due import due_steps
from guestledger.engine.domain.evolve import evolve, fold
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import Created, FailureKind
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.policy import Policy, deadline_of
from guestledger.engine.domain.session import Session, Status, WebhookNotice
from guestledger.engine.limits.retry import InDoubt, Wait
from tests.transitions import is_legal

SESSION = UUID("018f96c2-7a60-7000-8000-0000000000a1")
WAITING = {Status.PENDING, Status.THROTTLED, Status.IN_DOUBT}


class Life:
    """A session that takes commands and checks the invariants."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.state = Session(id=SESSION)
        self.history: list[e.Event] = []

    def take(self, command: Command) -> list[e.Event]:
        """Add the events of `command` to the history, and return them."""
        before = self.state
        decided = decide(before, command, self.policy)
        assert decided == decide(self.state, command, self.policy), "a decision depends on its arguments alone"
        for event in decided:
            self._add(event)
        match command:
            case RecordLookup() | DeferCreation():
                pass  # the same failure or denial may come again
            case RecordDelivery():
                gone = command.outcome.gone and command.notice is self.state.notice
                assert not (gone and self.state.webhook_owed), "nothing is sent to a gone receiver"
            case _:
                assert decide(self.state, command, self.policy) == [], "a repeated command changes nothing"
        if isinstance(command, RecordAttempt):
            self._check_answer(before, command, decided)
        self._check_whole()
        return decided

    def _add(self, event: e.Event) -> None:
        before, after = self.state, evolve(self.state, event)
        assert is_legal(before.status, after.status), (before.status, after.status)
        assert after.version == before.version + 1
        assert after.in_doubt or after.status is not Status.PARKED, "what is parked is found among what is in doubt"
        self._check_creation(before, event, after)
        self._check_doubt(before, event)
        self._check_webhook(before, event)
        self._check_erasure(before, event, after)
        self._check_kept(before, event)
        self._check_withdrawal(before, event, after)
        if isinstance(event, e.TokenExpired):
            assert event.at >= event.expires_at
        self.state = after
        self.history.append(event)

    def _check_creation(self, before: Session, event: e.Event, after: Session) -> None:
        match event:
            case e.CreationAttempted():
                assert before.status in WAITING
                assert before.channel_validated
                assert event.attempt == before.attempts + 1
                assert event.idempotency_key == str(SESSION)
            case e.CreationDeferred():
                assert after.attempts == before.attempts
                assert before.status in WAITING
                assert event.wait.ms == event.wait.basis_ms + event.wait.extra_ms
            case e.CreationThrottled():
                _check_wait(event.wait)
                assert event.retry_at == event.at + timedelta(milliseconds=event.wait.ms)
            case e.CreationFailed():
                final = event.kind is FailureKind.FINAL
                assert (event.retry_at is None, event.wait is None) == (final, final)
                assert (after.status is Status.REJECTED) == final
                assert (after.status is Status.IN_DOUBT) == (event.kind is FailureKind.IN_DOUBT)
                assert (event.attempt in after.in_doubt) == (event.kind is FailureKind.IN_DOUBT)
            case e.SessionCreated():
                assert before.session_id is None
                assert 1 <= event.attempt <= before.attempts
                assert event.webhook_owed == self.policy.webhook_enabled
            case e.DuplicateCreated():
                assert before.status.is_settled
                assert event.session_id not in {before.session_id, *before.duplicates}
                assert after.session_id == before.session_id
            case e.SessionAbandoned():
                assert before.status in WAITING or (
                    before.status is Status.PARKED and event.cause is Cause.GUEST_ERASED
                )

    def _check_erasure(self, before: Session, event: e.Event, after: Session) -> None:
        if isinstance(event, e.GuestErased):
            assert before.status.is_settled
            assert not (before.webhook_owed and before.notice is WebhookNotice.SESSION_STARTED)
            assert (after.erased_at, after.guest_token) == (event.at, None)
        if before.erased_at is not None:
            assert event.purpose is None, "nothing personal is recorded of an erased guest"
            of_start = after.notice is WebhookNotice.SESSION_STARTED
            assert not (after.webhook_owed and of_start), "a notice of a start holds personal data"

    def _check_doubt(self, before: Session, event: e.Event) -> None:
        match event:
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

    def _check_webhook(self, before: Session, event: e.Event) -> None:
        match event:
            case e.WebhookSynced() if event.notice is not before.notice:
                assert before.status is Status.WITHDRAWN
            case e.WebhookSynced() | e.WebhookAbandoned():
                assert before.webhook_owed or before.webhook_erased, "an erasure may overtake a call"
                assert event.notice is before.notice
            case e.WebhookFailed():
                assert before.webhook_owed
                assert event.notice is before.notice
                _check_wait(event.wait)
                assert event.wait.ms >= self.policy.webhook.waits_ms[before.webhook_failures]
                assert event.retry_at == event.at + timedelta(milliseconds=event.wait.ms)
            case e.WebhookRedeliveryRequested():
                assert before.session_id is not None
                assert not before.webhook_owed

    def _check_kept(self, before: Session, event: e.Event) -> None:
        erased = [purpose for earlier in self.history for purpose in earlier.erases]
        assert event.purpose not in erased, "nothing personal is recorded after it was erased"
        match event:
            case e.TokenPurged():
                assert before.guest_token is not None
                assert before.status is Status.EXPIRED or before.ended_at is not None
            case e.ContactErased():
                assert before.ended_at == event.ended_at
                assert event.retention_days == self.policy.retention_days
                assert event.at - event.ended_at >= timedelta(days=event.retention_days)
                assert not before.held, "a legal hold keeps contact data"
                assert not before.webhook_owed, "a notice that is owed needs the fingerprint"
                assert before.guest_token is None, "the token goes first"
            case e.WebhookSynced() if before.webhook_erased:
                pass  # it was sent before the erasure
            case e.WebhookSynced() | e.WebhookFailed() | e.WebhookRedeliveryRequested():
                of_start = before.notice is WebhookNotice.SESSION_STARTED
                assert not of_start or Purpose.CONTACT not in erased, "no notice of a start without contact data"

    def _check_withdrawal(self, before: Session, event: e.Event, after: Session) -> None:
        if before.status is Status.WITHDRAWN:
            late = (e.DuplicateCreated, e.DoubtLifted, e.ClockSetBack)
            notices = (e.WebhookSynced, e.WebhookFailed, e.WebhookAbandoned, e.WebhookRedeliveryRequested)
            kept = (e.GuestErased, e.ContactErased, e.LegalHoldPlaced, e.LegalHoldReleased)
            assert isinstance(event, (*late, *notices, *kept)), "nothing else happens after a withdrawal"
        match event:
            case e.ConsentWithdrawn():
                assert event.ended is before.status
                assert before.status is not Status.ATTEMPTING, "its attempt is in doubt first"
                known = any(isinstance(each, e.SessionCreated | e.SessionAdopted) for each in self.history)
                assert known or not event.webhook_owed, "a receiver that was sent nothing gets no notice"
                assert known or not after.webhook_owed
                assert after.guest_token is None
            case e.MarketingWithdrawn():
                assert before.consent is not None
                assert before.consent.marketing
                assert replace(after, consent=before.consent, version=before.version) == before

    def _check_answer(self, before: Session, command: RecordAttempt, decided: list[e.Event]) -> None:
        own, late = decided, before.status is Status.ATTEMPTING and command.attempt != before.attempts
        if late and isinstance(command.outcome, Created) and decided:
            overtaken, *own = decided
            assert isinstance(overtaken, e.CreationFailed)
            assert (overtaken.attempt, overtaken.kind) == (before.attempts, FailureKind.IN_DOUBT)
            assert overtaken.cause is Cause.OVERTAKEN
        for event in own:
            if isinstance(event, e.CreationThrottled | e.CreationFailed | e.SessionCreated | e.DuplicateCreated):
                assert event.attempt == command.attempt, "an answer belongs to its own attempt"
        was_made = 1 <= command.attempt <= before.attempts
        if isinstance(command.outcome, Created) and was_made:
            known = {self.state.session_id, *self.state.duplicates}
            assert command.outcome.session_id in known, "every remote session is recorded"
            assert before.status.is_settled or self.state.status is Status.ACTIVE

    def _check_whole(self) -> None:
        state = self.state
        assert state == fold(SESSION, self.history)
        assert state.version == len(self.history)
        seen = Counter(type(event) for event in self.history)
        made = seen[e.SessionCreated] + seen[e.SessionAdopted]
        assert made <= 1
        if state.status is Status.WITHDRAWN:
            assert seen[e.ConsentWithdrawn] == 1
            assert state.session_id is None or made
        else:
            assert (state.status in {Status.ACTIVE, Status.EXPIRED}) == bool(made)
        assert state.throttles == seen[e.CreationThrottled]
        retried = [number for number, event in enumerate(self.history) if isinstance(event, e.RetryDecided)]
        lately = self.history[retried[-1] if retried else 0 :]
        assert state.failures == sum(isinstance(event, e.CreationFailed) and event.kind.counts for event in lately)
        assert state.lookups == seen[e.ChannelLookupFailed]
        assert len(state.duplicates) == seen[e.DuplicateCreated]
        given_up = seen[e.WebhookAbandoned] - sum(_stopped_by_erasure(event) for event in self.history)
        assert state.webhook_attempts == seen[e.WebhookSynced] + seen[e.WebhookFailed] + given_up
        attempts = [event.attempt for event in self.history if isinstance(event, e.CreationAttempted)]
        assert attempts == list(range(1, state.attempts + 1))
        if state.status in WAITING:
            assert state.due_since <= deadline_of(state, self.policy.creation)
            assert max(state.failures, state.lookups_failed) < self.policy.creation.max_failures
        assert state.ended_at is None or not _owes_webhook(self.history), "a session that owes a notice is not over"
        self._check_due_steps()

    def _check_due_steps(self) -> None:
        status, owed = self.state.status, _owes_webhook(self.history)
        expires = status is Status.ACTIVE and self.state.expires_at is not None
        expected = status in WAITING | {Status.ATTEMPTING} or owed or expires
        purges = status is Status.EXPIRED and self.state.guest_token is not None
        erases = self._erasure_is_ahead()
        expected = expected or purges or erases
        due = due_steps(self.state, self.policy)
        assert bool(due) == expected, "a session that is not over has due steps"
        assert len({step.step for step in due}) == len(due)

    def _erasure_is_ahead(self) -> bool:
        status, owed = self.state.status, _owes_webhook(self.history)
        over = status in {Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED, Status.WITHDRAWN}
        endless = status is Status.ACTIVE and self.state.expires_at is None
        holds = [type(event) for event in self.history if isinstance(event, e.LegalHoldPlaced | e.LegalHoldReleased)]
        held = bool(holds) and holds[-1] is e.LegalHoldPlaced
        erased = any(isinstance(event, e.ContactErased | e.GuestErased) for event in self.history)
        return self.policy.retention_days is not None and (over or endless) and not (owed or held or erased)


def _stopped_by_erasure(event: e.Event) -> bool:
    """Whether a notice was given up without another call."""
    return isinstance(event, e.WebhookAbandoned) and event.cause is Cause.GUEST_ERASED


def _owes_webhook(history: list[e.Event]) -> bool:
    withdrawn = any(isinstance(event, e.ConsentWithdrawn) for event in history)
    for event in reversed(history):
        match event:
            case e.WebhookSynced(notice=WebhookNotice.SESSION_STARTED) if withdrawn:
                pass  # its call began before the withdrawal
            case e.WebhookSynced() | e.WebhookAbandoned():
                return False
            case e.WebhookRedeliveryRequested():
                return True
            case e.SessionCreated() | e.SessionAdopted() | e.ConsentWithdrawn():
                return event.webhook_owed
    return False


def _check_wait(wait: Wait) -> None:
    assert wait.ms == wait.basis_ms + wait.extra_ms
    assert min(wait.basis_ms, wait.extra_ms) >= 0
