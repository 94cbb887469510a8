"""A check finds the first decision of each session that another lifecycle does not take, and names its kind."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import Command, RecordAttempt
from guestledger.engine.domain.due import DueStep, StepName, due_steps
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, WebhookNotice
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.replay.check import CheckReport, RecordedDue, allowed_kinds, due_times
from guestledger.engine.replay.decisions import Lifecycle, decisions
from tests.lives import POLICY, life
from tests.unit import samples
from tests.unit.histories import history_of, in_force, recorded_all
from tests.unit.samples import at

SECOND = timedelta(seconds=1)
NUMBERS = range(200)


def session(number: int) -> UUID:
    return UUID(int=(0x018F96C27A60 << 80) | 0x7 << 76 | 0x8 << 60 | number)


LIVES = {session(number): life(session(number), number) for number in NUMBERS}
THROTTLED = {
    one: next(version for version, event in enumerate(events, 1) if isinstance(event, e.CreationThrottled))
    for one, events in LIVES.items()
    if any(isinstance(event, e.CreationThrottled) for event in events)
}


def checked(lifecycle: Lifecycle = Lifecycle(), policies: tuple[Policy, ...] = (POLICY,)) -> CheckReport:
    report = CheckReport()
    for one, events in LIVES.items():
        report.check(recorded_all(events, one), in_force(*policies), lifecycle=lifecycle)
    return report


def later(*steps: StepName) -> Lifecycle:
    """A lifecycle with these steps due a second later."""

    def due(state: Session, policy: Policy) -> tuple[DueStep, ...]:
        return tuple(
            replace(step, due_at=step.due_at + SECOND * (step.step in steps)) for step in due_steps(state, policy)
        )

    return Lifecycle(due_steps=due)


def longer_waits(state: Session, command: Command, policy: Policy) -> list[e.Event]:
    """Decides as today's code, but a throttled session waits a millisecond longer."""

    def changed(event: e.Event) -> e.Event:
        if not isinstance(event, e.CreationThrottled):
            return event
        wait = replace(event.wait, ms=event.wait.ms + 1, extra_ms=event.wait.extra_ms + 1)
        return replace(event, wait=wait, retry_at=event.retry_at + timedelta(milliseconds=1))

    return [changed(event) for event in decide(state, command, policy)]


def test_todays_code_takes_the_decisions_that_were_taken() -> None:
    report = checked()
    assert report.groups == {}
    assert (report.sessions, report.events) == (len(LIVES), sum(map(len, LIVES.values())))
    assert report.first() is None


def test_a_changed_argument_is_found_at_the_first_decision_that_differs() -> None:
    report = checked(Lifecycle(decide=longer_waits))

    kind = "RecordAttempt: CreationThrottled -> CreationThrottled: retry_at, wait.extra_ms, wait.ms"
    [group] = report.groups.values()
    assert (group.example.kind, group.sessions) == (kind, len(THROTTLED))
    first = report.first()
    assert first is not None
    assert (first.session_id, first.version) == (min(THROTTLED), THROTTLED[min(THROTTLED)])
    assert first.decision is not None
    assert isinstance(first.decision.command, RecordAttempt)
    [recorded], [decided] = first.decision.recorded, first.decision.decided
    assert isinstance(recorded, e.CreationThrottled)
    assert isinstance(decided, e.CreationThrottled)
    assert decided.wait.ms == recorded.wait.ms + 1


def test_a_step_that_is_due_later_is_found_where_it_ran() -> None:
    report = checked(later(StepName.EXPIRE_TOKEN))

    [group] = report.groups.values()
    assert group.example.kind == "ExpireToken not due: TokenExpired"
    expired = [one for one, events in LIVES.items() if any(isinstance(event, e.TokenExpired) for event in events)]
    assert group.sessions == len(expired)
    events = LIVES[group.example.session_id]
    assert isinstance(events[group.example.version - 1], e.TokenExpired)


def test_only_the_first_divergence_of_a_session_counts() -> None:
    report = checked(later(StepName.CREATE_SESSION, StepName.EXPIRE_TOKEN))
    assert sum(group.sessions for group in report.groups.values()) == len(LIVES)
    assert all(group.example.version == 3 for group in report.groups.values())


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        (lambda steps: steps[:-1], "due after ConsentRecorded: enforce_deadline missing"),
        (
            lambda steps: (*steps, DueStep(StepName.EXPIRE_TOKEN, steps[0].due_at)),
            "due after ConsentRecorded: expire_token extra",
        ),
        (
            lambda steps: tuple(replace(step, due_at=step.due_at + SECOND) for step in steps),
            "due after ConsentRecorded: enforce_deadline moved, validate_channel moved",
        ),
    ],
)
def test_due_steps_are_compared_with_those_of_another_release(changed: Any, kind: str) -> None:
    one, events = next(iter(LIVES.items()))
    history = recorded_all(events, one)
    due = [
        RecordedDue(policy=POLICY, steps=due_times(decision.after, POLICY))
        for decision in decisions(history, in_force(POLICY))
    ]

    def todays(state: Session, policy: Policy) -> tuple[DueStep, ...]:
        steps = due_steps(state, policy)
        return changed(steps) if state.version == 1 else steps

    report = CheckReport()
    report.check(history, in_force(POLICY), due)
    assert report.groups == {}
    # What is due after the first event is compared before it is seen that the look-up was not.
    report.check(history, in_force(POLICY), due, Lifecycle(due_steps=todays))
    assert list(report.groups) == [kind]
    first = report.first()
    assert first is not None
    assert first.version == 1


@pytest.mark.parametrize("given", ["x" * 70, {"granted": "x" * 70}])
def test_a_refused_consent_whose_value_was_cut_is_reproduced(given: Any) -> None:
    consent = samples.consent(data_processing=given, gdpr_compliant="true")
    report = CheckReport()
    report.check(history_of(samples.open_session(consent=consent)), in_force(Policy()))
    assert report.groups == {}


BEGUN = (samples.open_session(), samples.look_up(samples.channel(), at(0.1)), samples.begin(at(0.1)))
CREATED = (*BEGUN, samples.answer(samples.created(), 1, at(0.2)))
LOST = (*BEGUN, samples.answer(samples.failed(FailureKind.IN_DOUBT), 1, at(0.2)))
CLOSED = Denied(by=DenialReason.CLOSED, until=at(30))


@pytest.mark.parametrize(
    "life",
    [
        (*BEGUN, samples.answer(samples.failed(), 1, at(0.2)), samples.deferred(CLOSED, at(0.2))),
        (samples.open_session(), samples.deferred(CLOSED, at(0.1)), samples.look_up(samples.channel(), at(0.2))),
        (samples.open_session(), samples.look_up(samples.failed()), samples.look_up(samples.channel(), at(0.2))),
        (*CREATED, samples.deliver(samples.delivered(503), at(0.3)), samples.deliver(samples.delivered(), at(0.31))),
        (*CREATED, samples.erase(at(0.3)), samples.deliver(samples.delivered(), at(0.31))),
        (*LOST, samples.begin(at(2)), *(samples.answer(samples.created(), number, at(2.2)) for number in (1, 2))),
    ],
    ids=["the limiter closed during the attempt", "denial", "look-up", "delivery", "erasure", "the same session"],
)
def test_an_answer_to_an_earlier_request_needs_no_due_step(life: tuple[Command, ...]) -> None:
    report = CheckReport()
    report.check(history_of(*life), in_force(Policy()))
    assert report.groups == {}


def test_a_delivery_that_began_before_it_was_due_is_found() -> None:
    failed = samples.deliver(samples.delivered(503), at(0.3))
    report = CheckReport()
    report.check(history_of(*CREATED, failed, samples.deliver(samples.delivered(), at(1))), in_force(Policy()))
    assert list(report.groups) == ["RecordDelivery not due: WebhookSynced"]


def test_the_notice_of_a_withdrawal_after_an_erasure_follows_its_schedule() -> None:
    ended = (samples.erase(at(0.3)), samples.withdraw(at(60)))
    calls = [
        samples.deliver(samples.delivered(status), at(seconds), notice=WebhookNotice.CONSENT_WITHDRAWN)
        for status, seconds in ((503, 61), (200, 67))
    ]
    report = CheckReport()
    report.check(history_of(*CREATED, *ended, *calls), in_force(Policy()))
    assert report.groups == {}

    too_early = samples.deliver(samples.delivered(), at(63), notice=WebhookNotice.CONSENT_WITHDRAWN)
    report.check(history_of(*CREATED, *ended, calls[0], too_early), in_force(Policy()))
    assert list(report.groups) == ["RecordDelivery not due: WebhookSynced"]


def test_events_that_no_command_leads_to_are_a_kind_of_their_own() -> None:
    one, events = next(iter(LIVES.items()))
    parked = e.SessionParked(at=events[0].at, channel_id="ch_1", attempt=1, cause=Cause.ANSWER_TIMEOUT, detail="")
    report = CheckReport()
    report.check(recorded_all([events[0], parked, *events[1:]], one), in_force(POLICY))
    assert list(report.groups) == ["no command: SessionParked"]


def test_code_that_fails_on_a_history_diverges() -> None:
    def failing(state: Session, command: Command, policy: Policy) -> list[e.Event]:
        assert not isinstance(command, RecordAttempt)
        return decide(state, command, policy)

    report = checked(Lifecycle(decide=failing))
    assert report.groups
    assert all(kind.endswith("fails: AssertionError") for kind in report.groups)
    first = report.first()
    assert first is not None
    assert (first.version, first.decision) == (4, None)
    assert first.error.startswith("AssertionError in guestledger.engine.replay.")


def test_each_decision_is_made_under_the_policy_in_force() -> None:
    other = replace(POLICY, creation=RetryPolicy(base_ms=1), webhook_enabled=False)
    assert checked(policies=(other, POLICY)).groups == {}
    assert checked(policies=(other,)).groups


def test_a_shorter_backoff_is_found_where_the_recorded_wait_exceeds_it() -> None:
    shorter = replace(POLICY.creation, base_ms=POLICY.creation.base_ms // 4)
    report = checked(policies=(replace(POLICY, creation=shorter),))

    fields = "retry_at, wait.extra_ms, wait.ms"
    assert f"RecordAttempt: CreationThrottled -> CreationThrottled: {fields}" in report.groups
    assert f"RecordAttempt: CreationFailed -> CreationFailed: {fields}" in report.groups


def test_reports_of_parts_add_up_in_any_order() -> None:
    lifecycle = Lifecycle(decide=longer_waits)
    parts = []
    for one, events in LIVES.items():
        parts.append(CheckReport())
        parts[-1].check(recorded_all(events, one), in_force(POLICY), lifecycle=lifecycle)
    random.Random(1).shuffle(parts)
    total = CheckReport()
    for part in parts:
        total.add(part)
    assert total == checked(lifecycle)


def test_allowed_kinds_do_not_count_as_the_first_divergence() -> None:
    report = checked(Lifecycle(decide=longer_waits))
    [kind] = report.groups
    assert report.first([kind]) is None
    assert report.first(["another"]) is not None


def test_a_list_of_allowed_kinds_has_comments_and_blank_lines() -> None:
    assert allowed_kinds("# why\n\nA -> B\r\n  C not due: D  \nA -> B\n") == ("A -> B", "C not due: D")
