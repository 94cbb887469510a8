"""Backoff, alone and on top of what the server asked for."""

import pytest

from guestledger.engine.limits.retry import RetryAfter, RetryPolicy, Wait, WaitBasis, backoff_ms, backoff_wait

POLICY = RetryPolicy(base_ms=500, cap_ms=60_000)


@pytest.mark.parametrize(
    ("tries", "ceiling"), [(1, 500), (2, 1_000), (3, 2_000), (7, 32_000), (8, 60_000), (9, 60_000)]
)
def test_backoff_ceiling_doubles_up_to_the_cap(tries: int, ceiling: int) -> None:
    assert backoff_ms(tries, POLICY, 0.0) == 0
    assert backoff_ms(tries, POLICY, 0.5) == ceiling // 2
    assert backoff_ms(tries, POLICY, 0.9999) == int(ceiling * 0.9999) < ceiling


def test_backoff_stays_at_the_cap() -> None:
    assert backoff_ms(1_000_000, POLICY, 0.5) == 30_000


def test_cap_below_the_base_limits_the_first_try() -> None:
    assert backoff_ms(1, RetryPolicy(base_ms=500, cap_ms=100), 0.5) == 50


def test_backoff_alone_is_the_wait_if_the_server_asked_for_none() -> None:
    assert backoff_wait(1, POLICY, 0.5, None) == Wait(ms=250, basis=WaitBasis.BACKOFF, extra_ms=250)


def test_wait_is_never_shorter_than_the_server_asked_for() -> None:
    asked = RetryAfter(given="7", ms=7_000, basis=WaitBasis.RETRY_AFTER)
    assert backoff_wait(1, POLICY, 0.0, asked).ms == 7_000
    assert backoff_wait(1, POLICY, 0.5, asked) == Wait(
        ms=7_250, basis=WaitBasis.RETRY_AFTER, basis_ms=7_000, extra_ms=250, given="7"
    )
