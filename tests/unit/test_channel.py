"""Channel look-ups: which outcome rejects a session, and when the look-up is retried."""

from datetime import timedelta

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import RetryPolicy, Wait, WaitBasis
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    BACKOFF,
    CAUSES,
    DETAIL,
    EXPIRED,
    OPEN,
    REFUSED,
    REJECTED,
    START,
    VALIDATED,
    at,
    channel,
    enforce,
    failed,
    look_up,
    lookup_failed,
    throttled,
    unusable,
    was_rejected,
    was_validated,
)


def test_a_usable_channel_is_recorded_as_validated() -> None:
    then = given(*OPEN).when(look_up(channel(), now=at(1))).then(was_validated(at=at(1)))
    assert then.state.status is Status.PENDING
    assert StepName.CREATE_SESSION in then.due()


@pytest.mark.parametrize(("status", "protocols"), [("active", ("web_chat",)), ("ACTIVE", ()), ("", ("sms", "other"))])
def test_status_and_protocols_of_a_channel_are_evidence_only(status: str, protocols: tuple[str, ...]) -> None:
    seen = channel(status=status, protocols=protocols)
    given(*OPEN).when(look_up(seen)).then(was_validated(status=status, protocols=protocols))


@pytest.mark.parametrize(
    ("problem", "detail"),
    [(Cause.CHANNEL_INACTIVE, "inactive"), (Cause.CHANNEL_UNSUPPORTED, "web_chat"), (Cause.CHANNEL_UNKNOWN, "")],
)
def test_a_channel_problem_rejects_the_session_with_its_cause_and_detail(problem: Cause, detail: str) -> None:
    then = given(*OPEN).when(look_up(unusable(problem, detail=detail), now=at(1)))
    then.then(was_rejected(at=at(1), cause=problem, detail=detail, cached=False))
    assert (then.state.status, then.state.cause, then.state.detail) == (Status.REJECTED, problem, detail)
    assert then.due() == {}


@pytest.mark.parametrize("problem", [None, Cause.CHANNEL_INACTIVE])
def test_a_cached_lookup_is_recorded_as_cached_with_its_time(problem: Cause | None) -> None:
    before = START - timedelta(seconds=30)
    (event,) = given(*OPEN).when(look_up(channel(problem=problem, cached=True, looked_up_at=before))).events
    assert isinstance(event, e.ChannelRejected if problem else e.ChannelValidated)
    assert (event.cached, event.looked_up_at, event.at) == (True, before, START)


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind is not FailureKind.FINAL])
def test_a_failed_lookup_is_retried_after_a_backoff(kind: FailureKind) -> None:
    then = given(*OPEN).when(look_up(failed(kind, status=503), now=at(1)))
    then.then(lookup_failed(kind, at=at(1), wait=BACKOFF, retry_at=at(1.25)))
    assert (then.state.status, then.state.cause, then.state.detail) == (Status.PENDING, CAUSES[kind], DETAIL)
    assert then.due()[StepName.VALIDATE_CHANNEL] == at(1.25)


def test_a_failed_lookup_waits_for_retry_after_plus_backoff() -> None:
    then = given(*OPEN).when(look_up(failed(status=503, retry_after_ms=60_000), now=at(1)))
    event = then.then_one(e.ChannelLookupFailed)
    assert event.retry_at == at(61.25)
    assert event.wait == Wait(ms=60_250, basis=WaitBasis.RETRY_AFTER, basis_ms=60_000, extra_ms=250, given="60")


def test_a_final_lookup_failure_rejects_the_session() -> None:
    then = given(*OPEN).when(look_up(failed(FailureKind.FINAL, status=403)))
    event = then.then_one(e.ChannelLookupFailed)
    assert (event.status, event.wait, event.retry_at) == (403, None, None)
    assert then.state.status is Status.REJECTED
    assert (then.state.cause, then.state.detail) == (Cause.REJECTED, DETAIL)
    assert then.due() == {}


def test_a_throttled_lookup_waits_for_retry_after_plus_backoff() -> None:
    then = given(*OPEN).when(look_up(throttled(5_000), now=at(1), jitter=0.5))
    event = then.then_one(e.ChannelLookupFailed)
    assert (event.kind, event.cause, event.status) == (None, Cause.THROTTLED, 429)
    assert event.wait == Wait(ms=5_250, basis=WaitBasis.RETRY_AFTER, basis_ms=5_000, extra_ms=250, given="5")
    assert event.retry_at == at(1 + 5.25)
    assert then.state.status is Status.PENDING


def test_lookup_numbers_count_failures_and_throttles() -> None:
    event = given(*OPEN, lookup_failed(), lookup_failed(None, lookup=2)).when(look_up(failed())).events[0]
    assert isinstance(event, e.ChannelLookupFailed)
    assert event.lookup == 3


def test_backoff_doubles_with_every_failed_lookup() -> None:
    event = (
        given(*OPEN, lookup_failed(), lookup_failed(lookup=2)).when(look_up(failed())).then_one(e.ChannelLookupFailed)
    )
    assert event.wait is not None
    assert event.wait.ms == 500 * 2 * 2 // 2


def test_a_session_is_abandoned_after_max_failed_lookups() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=2))
    then = given(*OPEN, lookup_failed()).when(look_up(failed(), now=at(1)), policy)
    then.then_kinds(e.ChannelLookupFailed, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert then.state.cause is Cause.TOO_MANY_FAILURES
    given(*OPEN).when(look_up(failed()), policy).then_kinds(e.ChannelLookupFailed)


def test_a_throttled_lookup_does_not_count_as_a_failure() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=2))
    throttles = [lookup_failed(None, lookup=number) for number in (1, 2, 3)]
    given(*OPEN, *throttles).when(look_up(throttled()), policy).then_kinds(e.ChannelLookupFailed)
    given(*OPEN, *throttles).when(look_up(failed()), policy).then_kinds(e.ChannelLookupFailed)


def test_a_session_is_abandoned_when_its_next_lookup_is_past_the_deadline() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=5_000))
    then = given(*OPEN).when(look_up(throttled(5_000), jitter=0.5), policy)
    then.then_kinds(e.ChannelLookupFailed, e.SessionAbandoned)
    assert then.state.cause is Cause.DEADLINE_EXCEEDED
    given(*OPEN).when(look_up(throttled(5_000), jitter=0.0), policy).then_kinds(e.ChannelLookupFailed)


def test_a_lookup_past_the_deadline_abandons_the_session() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=5_000))
    given(*OPEN).when(enforce(at(5)), policy).then_nothing()
    then = given(*OPEN).when(enforce(at(5.001)), policy).then_kinds(e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED


@pytest.mark.parametrize(
    "history",
    [(), VALIDATED, ATTEMPTING, ACTIVE, EXPIRED, REFUSED, REJECTED, ABANDONED],
    ids=["new", "validated", "attempting", "active", "expired", "refused", "rejected", "abandoned"],
)
def test_a_lookup_result_outside_validation_changes_nothing(history: tuple[e.Event, ...]) -> None:
    for outcome in (channel(), unusable(), throttled(), failed(), failed(FailureKind.FINAL)):
        given(*history).when(look_up(outcome)).then_nothing()


def test_a_validated_channel_clears_earlier_failures() -> None:
    state = given(*OPEN, lookup_failed(), was_validated()).state
    assert (state.cause, state.detail, state.retry_at, state.channel_validated) == (None, None, None, True)
