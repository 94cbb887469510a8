"""Waits: for any header, and after any number of tries."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from hypothesis import example, given, strategies as st

from guestledger.adapters.http.retry_after import read_retry_after
from guestledger.engine.domain.commands import RecordAttempt, RecordDelivery
from guestledger.engine.domain.events import CreationFailed, CreationThrottled, WebhookAbandoned, WebhookFailed
from guestledger.engine.domain.evolve import evolve, fold
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import Delivery, Failed, Throttled
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, RetryPolicy, WaitBasis, backoff_ms
from tests.property.strategies import (
    START,
    deliveries,
    delivery_policies,
    jitters,
    moments,
    retry_policies,
    temporary_failures,
    throttles,
)
from tests.unit.samples import ACTIVE, ATTEMPTING, SESSION, webhook_failed

# Header values as an HTTP client may return them, including bytes that are not UTF-8.
headers = st.text(st.characters(max_codepoint=0x3000) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
dates = st.datetimes(datetime(1900, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001 - it adds UTC
    lambda moment: format_datetime(moment.replace(microsecond=0), usegmt=True)
)
nearly_dates = st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,2} (Jan|May|Foo) [0-9]{1,5} [0-9:]{1,9} ?[-+A-Z0-9]{0,6}")


@given(
    given=st.none() | headers | dates | nearly_dates | st.integers().map(str),
    date=st.none() | headers | dates | nearly_dates,
    now=moments,
)
def test_any_retry_after_header_gives_a_bounded_and_storable_wait(
    given: str | None, date: str | None, now: datetime
) -> None:
    read = read_retry_after(given, date, now)
    assert 0 <= read.ms <= MAX_RETRY_AFTER_MS
    assert (read.basis is WaitBasis.RETRY_AFTER_MISSING) == (given is None)
    if given is None:
        assert read.given is None
    else:
        assert read.given is not None
        assert read.given.isascii()
        assert read.given.isprintable()
        assert len(read.given) <= 64


@given(seconds=st.integers(0, MAX_RETRY_AFTER_MS // 1_000), now=moments)
def test_seconds_are_parsed_exactly(seconds: int, now: datetime) -> None:
    assert read_retry_after(str(seconds), None, now).ms == seconds * 1_000


@given(now=moments.filter(lambda moment: moment.year < 9000), ahead=st.timedeltas(timedelta(0), timedelta(days=3_000)))
@example(now=datetime(2024, 5, 20, 14, 0, 0, 500_700, tzinfo=UTC), ahead=timedelta(seconds=2))
def test_a_wait_until_a_date_is_never_short_and_under_a_millisecond_long(now: datetime, ahead: timedelta) -> None:
    wanted = (now + ahead).replace(microsecond=0)
    over = now + timedelta(milliseconds=read_retry_after(format_datetime(wanted, usegmt=True), None, now).ms)
    assert max(now, wanted) <= over < max(now, wanted) + timedelta(milliseconds=1)


@given(tries=st.integers(1, 10_000), policy=retry_policies, jitter=jitters)
def test_backoff_stays_between_zero_and_its_ceiling(tries: int, policy: RetryPolicy, jitter: float) -> None:
    wait = backoff_ms(tries, policy, jitter)
    assert 0 <= wait <= policy.cap_ms
    assert wait <= policy.base_ms * 2 ** (tries - 1)
    assert wait <= backoff_ms(tries + 1, policy, jitter)


@given(outcome=throttles | temporary_failures, policy=retry_policies, jitter=jitters)
def test_no_attempt_is_due_before_the_servers_retry_after(
    outcome: Throttled | Failed, policy: RetryPolicy, jitter: float
) -> None:
    command = RecordAttempt(attempt=1, outcome=outcome, now=START, jitter=jitter)
    event, *_ = decide(fold(SESSION, ATTEMPTING), command, Policy(creation=policy))
    assert isinstance(event, CreationThrottled | CreationFailed)
    asked_ms = outcome.retry_after.ms if outcome.retry_after else 0
    assert event.wait is not None
    assert asked_ms <= event.wait.ms <= asked_ms + policy.cap_ms
    assert event.retry_at == event.at + timedelta(milliseconds=event.wait.ms)


@given(policy=delivery_policies, failures=st.integers(0, 5), outcome=deliveries, jitter=jitters)
def test_a_webhook_waits_for_schedule_or_retry_after_plus_jitter(
    policy: DeliveryPolicy, failures: int, outcome: Delivery, jitter: float
) -> None:
    state = fold(SESSION, ACTIVE)
    for _ in range(failures):
        state = evolve(state, webhook_failed())
    command = RecordDelivery(notice=state.notice, outcome=outcome, now=START, jitter=jitter)
    [event] = decide(state, command, Policy(webhook=policy))
    asked_ms = outcome.retry_after.ms if outcome.retry_after else 0
    if isinstance(event, WebhookFailed):
        min_ms = max(policy.waits_ms[failures], asked_ms)
        assert min_ms <= event.wait.ms <= min_ms * (1 + policy.jitter_percent / 100)
        assert event.retry_at == event.at + timedelta(milliseconds=event.wait.ms)
    elif isinstance(event, WebhookAbandoned):
        assert outcome.gone or failures >= len(policy.waits_ms) or asked_ms > policy.max_wait_ms
    else:
        assert outcome.accepted
