"""Looking up the channel: may it take a session, and when to ask again."""

from datetime import timedelta

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import BeginLookup
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.lifecycle import Policy, ValidateChannel
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import RetryPolicy
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    CHANNEL,
    EXPIRED,
    OPEN,
    REFUSED,
    REJECTED,
    START,
    VALIDATED,
    at,
    channel,
    failed,
    look_up,
    lookup_failed,
    throttled,
    was_validated,
)


def test_an_active_channel_with_web_chat_is_valid() -> None:
    given(*OPEN).when(look_up(channel(), now=at(1))).then(was_validated(at=at(1)))


def test_a_channel_may_support_other_protocols_besides_web_chat() -> None:
    for protocols in [("web_chat",), ("sms", "web_chat")]:
        given(*OPEN).when(look_up(channel(protocols=protocols))).then(was_validated(protocols=protocols))


@pytest.mark.parametrize("status", ["inactive", "Active", "ACTIVE", "", "active "])
def test_an_inactive_channel_rejects_the_session_and_names_its_status(status: str) -> None:
    then = given(*OPEN).when(look_up(channel(status=status)))
    rejected = then.then_one(e.ChannelRejected)
    assert CHANNEL in rejected.reason
    assert repr(status) in rejected.reason
    assert then.state.status is Status.REJECTED
    assert then.state.reason == rejected.reason


@pytest.mark.parametrize("protocols", [(), ("sms",), ("WEB_CHAT",), ("web_chat_2",)])
def test_a_channel_without_web_chat_rejects_the_session_and_names_the_protocol(protocols: tuple[str, ...]) -> None:
    rejected = given(*OPEN).when(look_up(channel(protocols=protocols))).then_one(e.ChannelRejected)
    assert CHANNEL in rejected.reason
    assert "'web_chat'" in rejected.reason


@pytest.mark.parametrize("kind", FailureKind)
def test_an_unknown_channel_rejects_the_session(kind: FailureKind) -> None:
    then = given(*OPEN).when(look_up(failed(kind, status=404), now=at(1)))
    rejected = then.then_one(e.ChannelRejected)
    assert CHANNEL in rejected.reason
    assert (rejected.cached, rejected.looked_up_at) == (False, at(1))
    assert given(*OPEN, rejected).next_step() is None


@pytest.mark.parametrize("status", ["active", "inactive"])
def test_a_cached_lookup_is_recorded_as_cached_with_its_time(status: str) -> None:
    before = START - timedelta(seconds=30)
    (event,) = given(*OPEN).when(look_up(channel(status=status, cached=True, looked_up_at=before))).events
    assert isinstance(event, e.ChannelValidated | e.ChannelRejected)
    assert (event.cached, event.looked_up_at, event.at) == (True, before, START)


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if not kind.is_final])
def test_a_failed_lookup_is_retried_after_a_backoff(kind: FailureKind) -> None:
    then = given(*OPEN).when(look_up(failed(kind, status=503), now=at(1)))
    then.then(lookup_failed(at=at(1), kind=kind, status=503, message=f"it is {kind}", wait_ms=250, retry_at=at(1.25)))
    assert then.state.status is Status.PENDING
    assert given(*OPEN, *then.events).next_step() == ValidateChannel(at(1.25))


def test_a_failed_lookup_waits_for_retry_after_plus_backoff() -> None:
    then = given(*OPEN).when(look_up(failed(status=503, retry_after_ms=60_000), now=at(1)))
    event = then.then_one(e.ChannelLookupFailed)
    assert (event.wait_ms, event.retry_at) == (60_250, at(61.25))
    assert event.reason == "Retry-After of 60 s, plus 250 ms backoff"


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind.is_final])
def test_a_final_lookup_failure_rejects_the_session(kind: FailureKind) -> None:
    then = given(*OPEN).when(look_up(failed(kind, status=403)))
    event = then.then_one(e.ChannelLookupFailed)
    assert (event.wait_ms, event.retry_at) == (None, None)
    assert then.state.status is Status.REJECTED
    assert then.state.reason == event.message
    assert given(*OPEN, event).next_step() is None


def test_a_throttled_lookup_waits_for_retry_after_plus_backoff() -> None:
    then = given(*OPEN).when(look_up(throttled(5_000), now=at(1), jitter=0.5))
    event = then.then_one(e.ChannelLookupFailed)
    assert event.kind is None
    assert event.status == 429
    assert event.wait_ms == 5_000 + 250
    assert event.retry_at == at(1 + 5.25)
    assert then.state.status is Status.PENDING


def test_lookup_numbers_count_failures_and_throttles() -> None:
    event = given(*OPEN, lookup_failed(), lookup_failed(lookup=2, kind=None)).when(look_up(failed())).events[0]
    assert isinstance(event, e.ChannelLookupFailed)
    assert event.lookup == 3


def test_backoff_doubles_with_every_failed_lookup() -> None:
    event = (
        given(*OPEN, lookup_failed(), lookup_failed(lookup=2)).when(look_up(failed())).then_one(e.ChannelLookupFailed)
    )
    assert event.wait_ms == 500 * 2 * 2 // 2


def test_a_session_is_abandoned_after_max_failed_lookups() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=2))
    then = given(*OPEN, lookup_failed()).when(look_up(failed(), now=at(1)), policy)
    then.then_kinds(e.ChannelLookupFailed, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert "2 failures" in (then.state.reason or "")
    given(*OPEN).when(look_up(failed()), policy).then_kinds(e.ChannelLookupFailed)


def test_a_throttled_lookup_does_not_count_as_a_failure() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=2))
    throttles = [lookup_failed(lookup=number, kind=None, status=429) for number in (1, 2, 3)]
    given(*OPEN, *throttles).when(look_up(throttled()), policy).then_kinds(e.ChannelLookupFailed)
    given(*OPEN, *throttles).when(look_up(failed()), policy).then_kinds(e.ChannelLookupFailed)


def test_a_session_is_abandoned_when_its_next_lookup_is_past_the_deadline() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=5_000))
    then = given(*OPEN).when(look_up(throttled(5_000), jitter=0.5), policy)
    then.then_kinds(e.ChannelLookupFailed, e.SessionAbandoned)
    assert "deadline" in (then.state.reason or "")
    given(*OPEN).when(look_up(throttled(5_000), jitter=0.0), policy).then_kinds(e.ChannelLookupFailed)


def test_a_lookup_past_the_deadline_abandons_the_session() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=5_000))
    given(*OPEN).when(BeginLookup(now=at(5)), policy).then_nothing()
    then = given(*OPEN).when(BeginLookup(now=at(5.001)), policy).then_kinds(e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED


@pytest.mark.parametrize(
    "history",
    [(), VALIDATED, ATTEMPTING, ACTIVE, EXPIRED, REFUSED, REJECTED, ABANDONED],
    ids=["new", "validated", "attempting", "active", "expired", "refused", "rejected", "abandoned"],
)
def test_a_lookup_result_outside_validation_changes_nothing(history: tuple[e.Event, ...]) -> None:
    for outcome in (channel(), channel(status="inactive"), throttled(), failed(), failed(status=404)):
        given(*history).when(look_up(outcome)).then_nothing()


def test_a_validated_channel_clears_earlier_failures() -> None:
    state = given(*OPEN, lookup_failed(), was_validated()).state
    assert (state.reason, state.retry_at, state.channel_validated) == (None, None, True)
