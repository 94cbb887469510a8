"""A timeline shows for each event its decision, what it changed, and which steps were due."""

import pytest
from msgspec.structs import replace

from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.personal import public
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.log.recorded import RecordedPolicy
from guestledger.engine.replay.diff import Change, changes
from guestledger.engine.replay.timeline import DueChange, Frame, diff, timeline, until
from tests.unit import samples
from tests.unit.histories import history_of, in_force, recorded, troubled
from tests.unit.samples import at


def frames_of_troubled() -> list[Frame]:
    return timeline(troubled(), in_force(Policy()))


def changed(found: tuple[Change, ...]) -> dict[str, tuple[object, object]]:
    return {change.field: (change.before, change.after) for change in found}


def test_a_frame_has_the_command_with_its_arguments_and_its_step() -> None:
    throttled = frames_of_troubled()[3]
    assert throttled.decision.command == samples.answer(samples.throttled(600_000), 1, at(0.06), jitter=0.801)
    assert throttled.decision.step is not None
    assert throttled.decision.step.step == StepName.SETTLE_ATTEMPT
    assert throttled.decision.is_reproduced


def test_a_frame_has_only_what_its_event_changed() -> None:
    found = changed(frames_of_troubled()[3].changes)
    assert found["status"] == (Status.ATTEMPTING, Status.THROTTLED)
    assert found["throttles"] == (0, 1)
    assert set(found) == {"status", "cause", "retry_at", "throttles"}


def test_due_steps_are_added_moved_and_removed() -> None:
    throttled = frames_of_troubled()[3]
    [settle, create, deadline] = throttled.due_changes
    assert settle == DueChange(step=StepName.SETTLE_ATTEMPT, before=at(0.017), after=None)
    assert create == DueChange(step=StepName.CREATE_SESSION, before=None, after=at(600.46))
    assert deadline.before is None
    failed_notice = frames_of_troubled()[8]
    assert failed_notice.due_changes == (DueChange(step=StepName.DELIVER_WEBHOOK, before=at(619.14), after=at(624.55)),)


def test_events_of_one_decision_share_it() -> None:
    policy = Policy(creation=RetryPolicy(in_doubt=InDoubt.PARK))
    lost = samples.answer(samples.failed(FailureKind.IN_DOUBT), 1, at(1))
    opened = (samples.open_session(at(0)), samples.look_up(samples.channel(), at(0)), samples.begin(at(0)))
    *_, failed, parked = timeline(history_of(*opened, lost, policy=policy), in_force(policy))
    assert failed.decision is parked.decision
    assert (failed.is_first, parked.is_first) == (True, False)


def test_due_steps_follow_the_policy_of_each_decision() -> None:
    patient, strict = (Policy(creation=RetryPolicy(max_failures=number)) for number in (8, 1))
    failed = samples.answer(samples.failed(), 1, at(1))
    opened = (samples.open_session(at(0)), samples.look_up(samples.channel(), at(0)), samples.begin(at(0)))
    last = timeline(history_of(*opened, failed, policy=strict), in_force(patient, strict))[-1]
    assert last.decision.policy == strict
    assert last.decision.is_reproduced
    assert (last.state.status, last.due) == (Status.ABANDONED, ())


def test_a_policy_that_gives_the_whole_session_is_preferred() -> None:
    strict = Policy(creation=RetryPolicy(deadline_ms=700_000))
    opened = (samples.open_session(at(0)), samples.look_up(samples.channel(), at(0)), samples.begin(at(0)))
    history = history_of(*opened, samples.answer(samples.throttled(900_000), 1, at(1)), policy=strict)
    frames = timeline(history, in_force(Policy(), strict))
    assert frames[-1].state.status is Status.ABANDONED
    assert {frame.decision.policy for frame in frames} == {strict}


@pytest.mark.parametrize("first_used_at", [1, 4, 12])
def test_a_policy_is_not_taken_for_events_from_before_its_first_use(first_used_at: int) -> None:
    history = troubled()
    kept, erased = Policy(), Policy(retention_days=30)
    later = RecordedPolicy(policy=erased, after_position=history[first_used_at - 1].position)

    frames = timeline(history, [later, RecordedPolicy(policy=kept)])

    assert all(frame.decision.is_reproduced for frame in frames)
    assert [frame.decision.policy for frame in frames] == [kept] * first_used_at + [erased] * (12 - first_used_at)


def test_events_from_before_any_recorded_policy_take_the_oldest() -> None:
    policies = [RecordedPolicy(policy=Policy(retention_days=days), after_position=5_000 + days) for days in (9, 8)]
    assert {frame.decision.policy for frame in timeline(troubled(), policies)} == {policies[1].policy}


def test_a_decision_that_todays_code_does_not_take_is_shown() -> None:
    *opened, attempted = history_of(
        samples.open_session(at(0)), samples.look_up(samples.channel(), at(0)), samples.begin(at(0))
    )
    skipped = replace(attempted, event=replace(attempted.event, attempt=7))
    frame = timeline([*opened, skipped], in_force(Policy()))[-1]
    assert not frame.decision.is_reproduced
    assert frame.decision.decided == (attempted.event,)


def test_a_history_stops_at_a_version_or_a_time() -> None:
    frames = frames_of_troubled()
    assert until(frames, 4) == until(frames, at(600)) == frames[:4]
    assert until(frames, at(-1)) == until(frames, 0) == []


def test_difference_is_between_any_two_versions_or_times() -> None:
    frames = frames_of_troubled()
    there, back = diff(frames, 2, at(619.2)), diff(frames, 8, 2)
    assert changed(there.changes)["attempts"] == (0, 3)
    assert {field: (after, before) for field, (before, after) in changed(there.changes).items()} == changed(
        back.changes
    )
    assert changed(diff(frames, 0, 1).changes)["status"] == (Status.NEW, Status.PENDING)
    assert diff(frames, 3, 3).changes == diff(frames, 3, 3).due_changes == ()


def test_nested_fields_have_dotted_paths() -> None:
    active = timeline(
        history_of(samples.open_session(at(0), consent=samples.consent(marketing=True))), in_force(Policy())
    )[0]
    withdrawn = replace(active.state, consent=replace(active.state.consent, marketing=False))
    assert changed(changes(active.state, withdrawn)) == {"consent.marketing": (True, False)}


def test_personal_fields_are_masked_wherever_they_are() -> None:
    opened, *_, created = timeline([recorded(event, 1 + n) for n, event in enumerate(_session())], in_force(Policy()))
    shown = repr(opened) + repr(created) + str([public(change) for change in (*opened.changes, *created.changes)])
    assert "guest_token" in shown
    for value in (samples.TOKEN, samples.IP, samples.USER_AGENT, samples.FINGERPRINT):
        assert value not in shown
    moved = replace(opened.state, guest=replace(opened.state.guest, ip_address="198.51.100.9"))
    [change] = changes(opened.state, moved)
    assert public(change) == {"field": "guest.ip_address", "before": "•••", "after": "•••"}
    assert "198.51.100.9" not in repr(change)


def _session() -> list[samples.e.Event]:
    return [samples.was_recorded(), samples.was_validated(), samples.was_attempted(), samples.was_created()]
