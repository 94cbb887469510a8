"""The time between two events of a timeline is split by what the session waited for."""

from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from guestledger.engine.domain.commands import Command, NoteClockSetBack
from guestledger.engine.domain.outcomes import FailureKind, Verdict
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.retry import InDoubt, RetryPolicy, WaitBasis
from guestledger.engine.replay.timeline import timeline
from tests.unit import samples
from tests.unit.histories import history_of, in_force
from tests.unit.samples import at

OPENED = (samples.open_session(at(0)), samples.look_up(samples.channel(), at(0)), samples.begin(at(0)))
CREATED = (*OPENED, samples.answer(samples.created(), 1, at(1)))
Part = tuple[str, float, str | None, WaitBasis | None]


def parts(*commands: Command, policy: Policy = Policy(), at_event: int = -1) -> list[Part]:
    """What was waited for before an event: kind, seconds, step, and the reason of the wait."""
    frame = timeline(history_of(*commands, policy=policy), in_force(policy))[at_event]
    return [
        (part.waited_for, part.length.total_seconds(), part.step, part.wait and part.wait.basis) for part in frame.waits
    ]


def test_retry_after_is_the_reason_of_the_wait_and_the_rest_is_late() -> None:
    throttled = samples.answer(samples.throttled(60_000), 1, at(1), jitter=0)
    assert parts(*OPENED, throttled, samples.begin(at(64))) == [
        ("due_time", 60, "create_session", "retry_after"),
        ("worker", 3, "create_session", None),
    ]


def test_backoff_is_the_reason_of_the_wait_after_a_failure() -> None:
    failed = samples.answer(samples.failed(FailureKind.UNAVAILABLE), 1, at(1), jitter=0.5)
    assert parts(*OPENED, failed, samples.begin(at(1.25))) == [("due_time", 0.25, "create_session", "backoff")]


def test_limiter_is_the_reason_of_the_wait_after_a_deferral() -> None:
    denied = Denied(by=DenialReason.RATE, until=at(5))
    opened = (*OPENED[:2], samples.deferred(denied, at(1)))
    assert parts(*opened, samples.begin(at(5))) == [("due_time", 4, "create_session", "limiter")]


def test_an_attempt_is_under_way_until_its_answer() -> None:
    assert parts(*CREATED) == [("answer", 1, "create_session", None)]


def test_an_attempt_whose_sender_died_is_under_way_until_it_is_settled() -> None:
    assert parts(*OPENED, samples.settle(1, at(12))) == [("answer", 12, "create_session", None)]


def test_a_look_up_is_due_until_its_answer() -> None:
    [opened, *_] = OPENED
    assert parts(opened, samples.look_up(samples.channel(), at(2))) == [("look_up", 2, "validate_channel", None)]


def test_a_remembered_look_up_that_comes_late_is_late() -> None:
    [opened, *_] = OPENED
    remembered = samples.look_up(samples.channel(cached=True), at(2))
    assert parts(opened, remembered) == [("worker", 2, "validate_channel", None)]


def test_the_end_of_the_time_before_a_notice_is_its_call() -> None:
    delivered = samples.deliver(samples.delivered(), at(3))
    assert parts(*CREATED, delivered) == [
        ("worker", 1.97, "deliver_webhook", None),
        ("answer", 0.03, "deliver_webhook", None),
    ]


def test_a_notice_waits_by_the_schedule_after_a_failure() -> None:
    failed = samples.deliver(samples.delivered(503), at(2), jitter=0)
    assert parts(*CREATED, failed, samples.deliver(samples.delivered(), at(7.03))) == [
        ("due_time", 5, "deliver_webhook", "schedule"),
        ("answer", 0.03, "deliver_webhook", None),
    ]


def test_a_tokens_expiry_is_a_due_time_without_a_recorded_wait() -> None:
    gone = samples.expire(samples.EXPIRY + timedelta(seconds=2))
    delivered = samples.deliver(samples.delivered(), at(2))
    assert parts(*CREATED, delivered, gone) == [
        ("due_time", 3_598, "expire_token", None),
        ("worker", 2, "expire_token", None),
    ]


def test_a_parked_session_waits_for_a_person() -> None:
    policy = Policy(creation=RetryPolicy(in_doubt=InDoubt.PARK))
    lost = samples.answer(samples.failed(FailureKind.IN_DOUBT), 1, at(1))
    retried = samples.resolve(Verdict.RETRY, at(901))
    assert parts(*OPENED, lost, retried, policy=policy) == [("person", 900, None, None)]


def test_nothing_is_due_after_the_end_until_somebody_acts() -> None:
    rejected = samples.look_up(samples.unusable(), at(1))
    assert parts(OPENED[0], rejected, samples.erase(at(61))) == [("nothing", 60, None, None)]


def test_a_person_who_acts_cuts_a_wait_short() -> None:
    throttled = samples.answer(samples.throttled(60_000), 1, at(1), jitter=0)
    assert parts(*OPENED, throttled, samples.withdraw(at(31))) == [("due_time", 30, "create_session", "retry_after")]


def test_a_wait_keeps_its_reason_when_the_clock_is_set_back() -> None:
    throttled = samples.answer(samples.throttled(60_000), 1, at(1), jitter=0)
    set_back = NoteClockSetBack(back_ms=20_000, now=at(2))
    assert parts(*OPENED, throttled, set_back, samples.begin(at(41))) == [
        ("due_time", 39, "create_session", "retry_after")
    ]


def test_no_time_passes_while_recorded_times_stand_still() -> None:
    """A clock was set back: the store records no time before the last one."""
    history: list[Any] = history_of(*CREATED)
    stands_still = [replace(recorded, recorded_at=at(90)) for recorded in history]
    for frame in timeline(stands_still, in_force(Policy())):
        assert frame.waits == ()
        assert frame.passed == timedelta()
