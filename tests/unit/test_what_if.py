"""What if: each expectation is computed by hand from the recorded life beside it.

A wait gives its jitter to half a millisecond: a backoff of twice its length can be one millisecond longer than twice the recorded one.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from guestledger.engine.domain import commands as c, events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import FailureKind, Verdict
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.log.personal_fields import as_sealed
from guestledger.engine.replay.decisions import Lifecycle
from guestledger.engine.replay.findings import Assumption, Contrast, Ending, LeftOut, Unanswered, WhatIf
from guestledger.engine.replay.what_if import what_if
from tests.unit import samples as s
from tests.unit.histories import in_force, recorded_all
from tests.unit.samples import SESSION, at

POLICY = Policy(
    creation=RetryPolicy(
        base_ms=1_000, cap_ms=60_000, max_failures=4, deadline_ms=600_000, in_doubt=InDoubt.RETRY_AND_RECORD
    ),
    webhook=DeliveryPolicy(waits_ms=(5_000,), jitter_percent=0),
)
BEGUN: tuple[Command, ...] = (s.open_session(), s.look_up(s.channel(), at(0.1)), s.begin(at(0.1)))
CREATED_AT_2 = (
    *BEGUN,
    s.answer(s.failed(), 1, at(0.2)),  # waits 500 ms, until 0.7
    s.begin(at(0.75)),
    s.answer(s.failed(), 2, at(0.85)),  # waits 1,000 ms, until 1.85
    s.begin(at(1.85)),
    s.answer(s.created(), 3, at(2)),
    s.deliver(s.delivered(), at(2.1)),
    s.expire(at(3_601)),
    s.purge(at(3_601.5)),
)
PARKED_TILL_100 = (
    *BEGUN,
    s.answer(s.failed(FailureKind.IN_DOUBT), 1, at(0.2)),
    s.resolve(Verdict.RETRY, at(100)),
    s.begin(at(100.01)),
    s.answer(s.created(), 2, at(100.2)),
)
PARKING = replace(POLICY, creation=replace(POLICY.creation, in_doubt=InDoubt.PARK))


def lived(*life: Command, policy: Policy = POLICY) -> list[e.Event]:
    """The events of these commands, each of which decides something."""
    state, events = Session(id=SESSION), list[e.Event]()
    for command in life:
        decided = decide(state, command, policy)
        assert decided, command
        state = evolve_all(state, decided)
        events += decided
    return events


def asked(life: Sequence[Command], policy: Any, *, recorded: Policy = POLICY, **given: Any) -> WhatIf:
    return what_if(recorded_all(lived(*life, policy=recorded)), in_force(recorded), policy=policy, **given)


def times(found: WhatIf, kind: type[e.Event]) -> list[datetime]:
    return [event.at for event in found.events if isinstance(event, kind)]


def first_fields(found: WhatIf) -> dict[str, tuple[Any, Any]]:
    assert found.difference is not None
    return {field.path: (field.recorded, field.simulated) for field in found.difference.fields}


def test_the_recorded_policy_gives_the_recorded_history() -> None:
    events = lived(*CREATED_AT_2)
    for recorded in (events, [as_sealed(event) for event in events]):
        found = what_if(recorded_all(recorded), in_force(POLICY), now=at(1e6))
        assert (found.difference, found.events, found.ending) == (None, tuple(recorded), Ending.DONE)
        assert found.recorded == found.simulated


def test_fewer_failures_abandon_the_session_at_the_second_one() -> None:
    found = asked(CREATED_AT_2, {"creation": {"max_failures": 2}})
    assert first_fields(found) == {"event 2": (None, "SessionAbandoned")}
    assert found.difference is not None
    assert found.difference.recorded is not None
    assert found.difference.recorded.version == 6
    assert (found.recorded.status, found.recorded.latency_ms) == (Status.EXPIRED, 2_000)
    assert (found.simulated.status, found.simulated.cause) == (Status.ABANDONED, Cause.TOO_MANY_FAILURES)
    assert (found.simulated.at, found.simulated.attempts, found.simulated.latency_ms) == (at(0.85), 2, None)
    assert (found.ending, found.assumed, found.unanswered) == (Ending.DONE, (), ())


def test_a_longer_backoff_moves_what_follows_and_says_what_is_assumed() -> None:
    found = asked(CREATED_AT_2, {"creation": {"base_ms": 2_000}}, now=at(1e6))
    waits = {"extra_ms": (500, 1_000), "ms": (500, 1_000)}
    assert first_fields(found) == {
        **{f"CreationFailed.wait.{name}": wait for name, wait in waits.items()},
        "CreationFailed.retry_at": (at(0.7), at(1.2)),
    }
    assert times(found, e.CreationAttempted) == [at(0.1), at(1.25), at(3.351)]
    assert times(found, e.SessionCreated) == [at(3.501)]
    assert (found.simulated.status, found.simulated.latency_ms) == (Status.EXPIRED, 3_501)
    assert times(found, e.TokenExpired) == [at(3_602.501)], "a lifetime of as long"
    assert found.assumed == (
        _assumed("RecordAttempt", 2, 0.85, 1.35),
        _assumed("RecordAttempt", 3, 2, 3.501),
        _assumed("RecordDelivery", 1, 2.1, 3.601),
    )


def _assumed(command: str, number: int, recorded: float, simulated: float, *, in_part: bool = False) -> Assumption:
    return Assumption(command=command, number=number, recorded_at=at(recorded), at=at(simulated), in_part=in_part)


def test_a_shorter_deadline_ends_the_session_where_the_wait_crosses_it() -> None:
    found = asked(CREATED_AT_2, {"creation": {"deadline_ms": 1_000}})
    assert first_fields(found) == {"event 2": (None, "SessionAbandoned")}
    assert (found.simulated.cause, found.simulated.at) == (Cause.DEADLINE_EXCEEDED, at(0.85))


def test_a_deadline_between_two_decisions_ends_the_session_by_itself() -> None:
    found = asked(CREATED_AT_2, {"creation": {"deadline_ms": 720}})
    assert first_fields(found) == {
        "command": ("BeginAttempt", "EnforceDeadline"),
        "event 1": ("CreationAttempted", "SessionAbandoned"),
    }
    assert (found.simulated.status, found.simulated.at) == (Status.ABANDONED, at(0.721))


def test_a_longer_deadline_leads_to_an_attempt_without_an_answer() -> None:
    life = CREATED_AT_2[:6]
    short = replace(POLICY, creation=replace(POLICY.creation, deadline_ms=1_000))
    found = asked(life, {"creation": {"deadline_ms": 600_000}}, recorded=short)
    assert first_fields(found) == {"event 2": ("SessionAbandoned", None)}
    assert (found.recorded.status, found.simulated.status) == (Status.ABANDONED, Status.PENDING)
    assert found.unanswered == (Unanswered(step=StepName.CREATE_SESSION, number=3, at=at(1.85)),)
    assert found.ending is Ending.UNANSWERED


def test_parking_waits_for_a_person_whom_the_log_does_not_have() -> None:
    life = (*BEGUN, s.answer(s.failed(FailureKind.IN_DOUBT), 1, at(0.2)), s.begin(at(0.7)))
    found = asked((*life, s.answer(s.created(), 2, at(0.9))), {"creation": {"in_doubt": "park"}})
    assert first_fields(found) == {"event 2": (None, "SessionParked")}
    assert (found.recorded.status, found.simulated.status) == (Status.ACTIVE, Status.PARKED)
    assert (found.ending, found.unanswered) == (Ending.PERSON, ())


def test_without_parking_the_retry_comes_at_once_and_the_person_is_left_out() -> None:
    found = asked(PARKED_TILL_100, {"creation": {"in_doubt": "retry_and_record"}}, recorded=PARKING)
    assert times(found, e.CreationAttempted) == [at(0.1), at(0.71)]
    assert (found.recorded.latency_ms, found.simulated.latency_ms) == (100_200, 900)
    assert found.left_out == (LeftOut(command="Resolve", at=at(100)),)
    assert found.assumed == (_assumed("RecordAttempt", 2, 100.2, 0.9),)


def test_without_a_webhook_no_notice_is_owed_and_the_rest_is_as_recorded() -> None:
    found = asked(CREATED_AT_2, {"webhook_enabled": False})
    assert first_fields(found) == {"SessionCreated.webhook_owed": (True, False)}
    assert (found.recorded.webhook_attempts, found.simulated.webhook_attempts) == (1, 0)
    assert (found.simulated.status, times(found, e.TokenExpired)) == (Status.EXPIRED, [at(3_601)])
    assert (found.assumed, found.ending) == ((), Ending.DONE)


def test_a_longer_webhook_schedule_moves_the_second_delivery() -> None:
    life = (*CREATED_AT_2[:8], s.deliver(s.delivered(503), at(2.1)), s.deliver(s.delivered(), at(7.2)))
    found = asked(life, {"webhook": {"waits_ms": [60_000]}})
    assert first_fields(found)["WebhookFailed.retry_at"] == (at(7.1), at(62.1))
    assert times(found, e.WebhookSynced) == [at(62.2)]
    assert found.assumed == (_assumed("RecordDelivery", 2, 7.2, 62.2),)
    assert (found.simulated.status, found.ending) == (Status.ACTIVE, Ending.WAITING)


def test_one_more_delivery_is_unanswered_and_the_token_still_expires() -> None:
    dead = (s.deliver(s.delivered(503), at(2.1)), s.deliver(s.delivered(503), at(7.2)))
    found = asked((*CREATED_AT_2[:8], *dead, *CREATED_AT_2[9:]), {"webhook": {"waits_ms": [5_000, 60_000]}})
    assert first_fields(found)["event 1"] == ("WebhookAbandoned", "WebhookFailed")
    assert found.unanswered == (Unanswered(step=StepName.DELIVER_WEBHOOK, number=3, at=at(67.2)),)
    assert (found.simulated.status, found.ending) == (Status.EXPIRED, Ending.UNANSWERED)


def test_a_session_that_is_the_same_so_far_is_not_run_on() -> None:
    for life in (CREATED_AT_2[:4], CREATED_AT_2[:5], CREATED_AT_2[:8]):
        found = asked(life, {"creation": {"max_failures": 3}}, now=at(1e6))
        assert (found.difference, found.ending) == (None, Ending.WAITING)


def test_an_attempt_still_in_flight_is_unanswered_once_it_is_another_one() -> None:
    found = asked(CREATED_AT_2[:5], {"creation": {"base_ms": 2_000}})
    assert found.unanswered == (Unanswered(step=StepName.SETTLE_ATTEMPT, number=2, at=at(1.25)),)


def test_a_denial_that_ends_before_the_simulated_request_is_left_out() -> None:
    denied = s.deferred(Denied(by=DenialReason.CLOSED, until=at(1)), at(0.7))
    life = (*CREATED_AT_2[:4], denied, s.begin(at(1)), s.answer(s.created(), 2, at(1.3)))
    later = asked(life, {"creation": {"base_ms": 4_000}})
    assert times(later, e.CreationDeferred) == []
    assert (times(later, e.CreationAttempted)[1], later.simulated.latency_ms) == (at(2.201), 2_501)
    sooner = asked(life, {"creation": {"base_ms": 500}})
    assert times(sooner, e.CreationDeferred) == [at(0.45)], "the limiter is closed until then, whoever asks"
    assert sooner.simulated.latency_ms == 1_300


def test_a_denial_recorded_with_its_attempt_moves_with_it() -> None:
    denied = s.deferred(Denied(by=DenialReason.CLOSED, until=at(30)), at(0.8))
    refused = s.answer(s.failed(), 1, at(0.8))
    life = (s.open_session(), s.look_up(s.failed(), at(0.1)), s.look_up(s.channel(), at(0.6)), s.begin(at(0.6)))
    found = asked((*life, refused, denied, s.begin(at(30))), {"creation": {"base_ms": 2_000}})
    assert times(found, e.CreationFailed) == times(found, e.CreationDeferred) == [at(1.3)]


def test_a_late_answer_brings_the_session_if_it_is_still_wanted() -> None:
    short = replace(POLICY, creation=replace(POLICY.creation, deadline_ms=1_000))
    life = (*BEGUN, s.answer(s.failed(FailureKind.IN_DOUBT), 1, at(0.8)), s.answer(s.created(), 1, at(30)))
    found = asked(life, {"creation": {"in_doubt": "park"}}, recorded=short)
    assert (found.recorded.status, found.simulated.status) == (Status.ABANDONED, Status.ACTIVE)
    assert found.assumed == (_assumed("RecordAttempt", 1, 30, 30, in_part=True),)
    assert isinstance(created := found.events[-1], e.SessionCreated)
    assert (created.expires_at, created.unread) == (at(3_630), {"expires_at": "not recorded"})


def test_a_late_answer_with_the_known_session_brings_it_where_no_attempt_followed() -> None:
    lost = (*BEGUN, s.answer(s.failed(FailureKind.IN_DOUBT), 1, at(0.2)))
    life = (*lost, s.begin(at(0.75)), s.answer(s.created(), 2, at(1)), s.answer(s.created(), 1, at(30)))
    found = asked(life, {"creation": {"in_doubt": "park"}})
    assert (found.recorded.attempts, found.simulated.attempts) == (2, 1)
    assert (found.simulated.status, found.simulated.latency_ms) == (Status.ACTIVE, 30_000)


def test_a_withdrawal_keeps_its_time_and_what_comes_later_does_not_happen() -> None:
    found = asked((*CREATED_AT_2[:6], s.withdraw(at(1))), {"creation": {"base_ms": 2_000}})
    assert (found.recorded.attempts, found.simulated.attempts) == (2, 1)
    assert (found.simulated.status, found.simulated.at, found.ending) == (Status.WITHDRAWN, at(1), Ending.DONE)


def test_retention_runs_up_to_the_present_and_no_further() -> None:
    change = {"retention_days": 30}
    erased_at = at(3_601) + timedelta(days=30)
    found = asked(CREATED_AT_2, change, now=erased_at)
    assert found.difference is not None
    assert found.difference.recorded is None
    assert [type(event) for event in found.events[-1:]] == [e.ContactErased]
    assert found.simulated.at == erased_at
    assert asked(CREATED_AT_2, change, now=erased_at - timedelta(seconds=1)).is_identical
    assert asked(CREATED_AT_2, change).is_identical


def test_a_hold_on_the_subject_is_placed_where_retention_would_erase() -> None:
    change, erased_at = {"retention_days": 30}, at(3_601) + timedelta(days=30)
    held = asked(CREATED_AT_2, change, now=erased_at, hold=s.hold(at(-1)))
    assert held.events[-1] == s.was_held(at=erased_at)
    assert held.ending is Ending.DONE
    later = asked(CREATED_AT_2, change, now=erased_at, hold=s.hold(erased_at + timedelta(days=1)))
    assert isinstance(later.events[-1], e.ContactErased)


def test_other_consent_terms_change_the_record_and_no_time() -> None:
    found = asked(CREATED_AT_2, {"consent_terms": {"version": "2026-01"}})
    path = "ConsentRecorded.consent.evidence.terms.version"
    assert found.difference is not None
    assert found.difference.fields == (Contrast(path=path, recorded=None, simulated="2026-01"),)
    assert [event.at for event in found.events] == [event.at for event in lived(*CREATED_AT_2)]
    assert (found.assumed, found.simulated) == ((), found.recorded)


def test_each_decision_is_changed_under_its_own_policy() -> None:
    patient = replace(POLICY, creation=replace(POLICY.creation, max_failures=1_000))
    events = lived(*CREATED_AT_2, policy=patient)
    found = what_if(
        recorded_all(events), in_force(replace(POLICY, retention_days=7), patient), policy={"webhook_enabled": True}
    )
    assert found.is_identical


def test_a_policy_without_a_choice_about_doubt_keeps_the_recorded_one() -> None:
    open_choice = replace(PARKING, creation=replace(PARKING.creation, in_doubt=None))
    assert asked(PARKED_TILL_100, open_choice, recorded=PARKING).is_identical


def test_another_decide_is_found_at_its_first_difference() -> None:
    def planted(state: Session, command: Command, policy: Policy) -> list[e.Event]:
        made = decide(state, command, policy)
        if isinstance(command, c.RecordAttempt) and command.attempt == 2:
            return [replace(event, detail="planted") for event in made if isinstance(event, e.CreationFailed)]
        return made

    found = asked(CREATED_AT_2, None, lifecycle=Lifecycle(decide=planted))
    assert first_fields(found) == {"CreationFailed.detail": (s.DETAIL, "planted")}
    assert found.simulated == found.recorded, "it changes no course"


def test_a_step_that_other_code_does_not_plan_is_found_where_it_is_missing() -> None:
    def planted(state: Session, policy: Policy) -> tuple[Any, ...]:
        return tuple(step for step in due_steps(state, policy) if step.step is not StepName.DELIVER_WEBHOOK)

    found = asked(CREATED_AT_2, None, lifecycle=Lifecycle(due_steps=planted))
    assert first_fields(found)["event 1"] == ("WebhookSynced", "TokenExpired")
    assert found.simulated.webhook_attempts == 0


def test_what_older_code_decided_is_not_put_down_to_the_policy() -> None:
    events = lived(*CREATED_AT_2)
    events[3] = replace(events[3], detail="of an older release", retry_at=at(0.72))  # type: ignore[call-arg]
    same = what_if(recorded_all(events), in_force(POLICY))
    assert (same.is_identical, same.not_reproduced) == (True, (4,))
    found = what_if(recorded_all(events), in_force(POLICY), policy={"creation": {"max_failures": 2}})
    assert first_fields(found) == {"event 2": (None, "SessionAbandoned")}


def test_a_wait_that_a_late_answer_makes_longer_is_not_cut_short() -> None:
    life = (
        *BEGUN,
        s.answer(s.failed(FailureKind.IN_DOUBT), 1, at(0.2)),  # until 0.7, but no worker runs
        s.answer(s.throttled(60_000), 1, at(12)),  # until 72
        s.begin(at(73)),
        s.answer(s.created(), 2, at(74)),
    )
    assert asked(life, None).is_identical


def test_no_personal_value_is_shown_in_a_difference() -> None:
    def planted(state: Session, command: Command, policy: Policy) -> list[e.Event]:
        made = decide(state, command, policy)
        return [replace(event, guest_token="other") if isinstance(event, e.SessionCreated) else event for event in made]

    found = asked(CREATED_AT_2, None, lifecycle=Lifecycle(decide=planted))
    assert found.difference is not None
    assert found.difference.fields == ()
    assert s.TOKEN not in repr(found)


def test_a_history_without_events_is_refused() -> None:
    with pytest.raises(ValueError, match="without events"):
        what_if([], in_force(POLICY))
