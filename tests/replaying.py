"""Checks that today's code makes every recorded decision again, and that a what-if with the recorded policy is the log."""

from collections.abc import Sequence
from itertools import pairwise

from guestledger.engine.domain import events as e
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from guestledger.engine.replay.decisions import decisions
from guestledger.engine.replay.what_if import what_if
from tests.unit.histories import in_force


def assert_every_decision_is_reproduced(history: Sequence[RecordedEvent], policy: Policy) -> Session:
    """Check that every recorded decision is made again, when it was due. Returns the session at the end."""
    assert_what_if_is_the_log(history, in_force(policy))
    return reproduce(history, policy)


def assert_what_if_is_the_log(history: Sequence[RecordedEvent], policies: Sequence[RecordedPolicy]) -> None:
    """Check the identity law: with the recorded policy, a what-if gives the recorded history, event by event."""
    found = what_if(history, policies)
    assert found.difference is None, (found.id, found.difference)
    assert found.events == tuple(recorded.event for recorded in history)
    assert (found.recorded, found.assumed, found.unanswered, found.left_out) == (found.simulated, (), (), ())


def reproduce(history: Sequence[RecordedEvent], policy: Policy, *, due: bool = True) -> Session:
    """Make every decision of a history again. `due`: check that each was due. Returns the session at the end."""
    state = Session(id=history[0].stream_id)
    for decision in decisions(history, in_force(policy)):
        assert decision.decided == decision.recorded
        assert decision.was_due or not due, (decision.command, decision.before)
        state = decision.after
    return state


def assert_each_attempt_was_committed_before_it_was_sent(history: Sequence[RecordedEvent]) -> None:
    """An attempt is the last event of its append: its outcome belongs to a later one."""
    for recorded, following in pairwise(history):
        if isinstance(recorded.event, e.CreationAttempted):
            assert following.causation_id != recorded.causation_id
