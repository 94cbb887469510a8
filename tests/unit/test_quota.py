"""An exhausted quota in `RateLimit` and `RateLimit-Policy`."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given, strategies as st

from guestledger.adapters.http.rate_limit import MAX_FIELD, read_exhausted_quota
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, WaitBasis

NOW = datetime(2024, 5, 20, 14, 0, tzinfo=UTC)


def read(rate_limit: str | None, policy: str | None = None) -> tuple[int, float | None] | None:
    exhausted = read_exhausted_quota(rate_limit, policy, NOW)
    return None if exhausted is None else (exhausted.ms, exhausted.per_second)


def test_quota_without_units_is_exhausted_until_its_reset() -> None:
    exhausted = read_exhausted_quota('"burst";r=0;t=7', '"burst";q=100;w=20', NOW)
    assert exhausted == ExhaustedQuota(ms=7_000, per_second=5.0)


@pytest.mark.parametrize("rate_limit", [None, "", '"burst";r=1;t=7', '"burst";t=7', '"burst"', '"burst";r=0;t=0'])
def test_quota_with_units_or_without_a_wait_is_ignored(rate_limit: str | None) -> None:
    assert read(rate_limit, '"other";q=100;w=20') is None


def test_window_is_the_wait_if_no_reset_is_given() -> None:
    assert read('"burst";r=0', '"burst";q=100;w=20') == (20_000, 5.0)


def test_quota_without_reset_and_window_is_ignored() -> None:
    assert read('"burst";r=0', '"burst";q=100') is None
    assert read('"burst";r=0') is None


def test_rate_is_unknown_without_a_policy() -> None:
    assert read('"burst";r=0;t=7') == (7_000, None)
    assert read('"burst";r=0;t=7', '"burst";q=0;w=0') == (7_000, None)


def test_exhausted_quota_with_the_longest_wait_counts() -> None:
    policy = '"second";q=10;w=1, "hour";q=3600;w=3600,"day";q=100;w=86400'
    assert read('"second";r=0;t=1, "hour";r=0;t=90 , "day";r=5;t=9999', policy) == (90_000, 1.0)
    assert read('"second";r=0;t=1, "hour";r=2;t=90', policy) == (1_000, 10.0)
    assert read('"second";r=3;t=1, "hour";r=2;t=90', policy) is None


def test_one_partition_of_a_quota_can_be_exhausted() -> None:
    policy = '"d";q=10;w=1;pk=:YQ==:, "d";q=100;w=1;pk=:Yg==:'
    assert read('"d";r=0;t=60, "d";r=5;t=10', '"d";q=10;w=1') == (60_000, 10.0)
    assert read('"d";r=0;t=60;pk=:YQ==:, "d";r=0;t=10;pk=:Yg==:', policy) == (60_000, 10.0)
    assert read('"d";r=5;t=60;pk=:YQ==:, "d";r=0;pk=:Yg==:', policy) == (1_000, 100.0)
    assert read('"d";r=0;t=60;pk=:YQ==:', '"d";q=50;w=1') == (60_000, 50.0)


def test_fractional_reset_is_rounded_up() -> None:
    assert read('"a";r=0;t=1.5') == (2_000, None)
    assert read('"a";r=0;t=7.0') == (7_000, None)
    assert read('"a";r=0;t="7"', '"a";q=100;w=20') == (20_000, 5.0)
    assert read('"a";r=0;t=-1', '"a";q=100;w=20') == (20_000, 5.0)


@pytest.mark.parametrize(
    "rate_limit",
    [
        '"a";t=7;r=0',
        '  "a"; r=0; t=7\t, "b"  ',
        '"a";x;r=0;t=7',
        '"a";x="\\"b;r=3";r=0;t=7',
        '"a";r=1;r=0;t=7',
        '"a";r=0;pk=:dHJpYWwxMjEzMjM=:;t=7',
        '"a";r=0;x="a, b";t=7',
        '"quo\\"ted, too";r=9, "a";r=0;t=7',
        'nonsense, "a";r=0;t=7',
    ],
)
def test_order_and_unknown_parameters_are_ignored(rate_limit: str) -> None:
    assert read(rate_limit) == (7_000, None)


@pytest.mark.parametrize(
    "rate_limit",
    [
        "a;r=0;t=7",
        '("a" "b");r=0;t=7',
        '"a";r=-1;t=7',
        '"a";r=0.0;t=7',
        '"a";r=?0;t=7',
        '"a";r;t=7',
        "100;r=0;t=7",
        '"a";r=0;t=?1',
    ],
)
def test_item_of_another_form_is_ignored(rate_limit: str) -> None:
    assert read(rate_limit) is None


@pytest.mark.parametrize(
    "field",
    [
        '"a;r=0;t=7',
        '"a";R=0;T=7',
        '"a" ;r=0;t=7',
        '"a";r=0;t=7,',
        '"a";r=0;t=7, 7 7',
        '"ä";r=0;t=7',
        '"a";r=0;t=1234567890123456',
        '"a";r=0;t=7' + " " * MAX_FIELD,
    ],
)
def test_malformed_or_endless_field_is_ignored_as_a_whole(field: str) -> None:
    assert read(field, '"a";q=100;w=20') is None
    assert read('"a";r=0;t=9', field) == (9_000, None)


def test_wait_for_a_quota_is_limited() -> None:
    assert read('"a";r=0;t=999999999999999') == (MAX_RETRY_AFTER_MS, None)


@pytest.mark.parametrize(("reset", "ms"), [(1_716_213_630, 30_000), (1_716_213_630_500, 30_500)])
def test_reset_that_is_a_unix_time_means_the_time_until_then(reset: int, ms: int) -> None:
    exhausted = read_exhausted_quota(f'"a";r=0;t={reset}', None, NOW)
    assert exhausted == ExhaustedQuota(ms=ms, per_second=None, basis=WaitBasis.QUOTA_EPOCH)
    assert read(f'"a";r=0;t={reset - 100 * ms}') is None


def test_longer_wait_than_allowed_is_cut() -> None:
    exhausted = read_exhausted_quota('"a";r=0;t=30000', None, NOW, 60_000)
    assert exhausted == ExhaustedQuota(ms=60_000, per_second=None, basis=WaitBasis.QUOTA_CAPPED)


def test_window_of_more_than_a_day_says_nothing_about_the_rate() -> None:
    assert read('"a";r=0;t=7', '"a";q=100;w=86400') == (7_000, 100 / 86_400)
    assert read('"a";r=0;t=7', '"a";q=100;w=86401') == (7_000, None)


fields = st.none() | st.text(max_size=200) | st.text('"\\;=,rtqw0123456789 a:?()@%.-', max_size=3_000)


@given(rate_limit=fields, policy=fields)
@example(rate_limit='"' * 4_000, policy=None)
@example(rate_limit='"a"' + ";r=0" * 2_000, policy='"a"' + " ;" * 2_000)
@example(rate_limit='"a";r=0;t=٣', policy=None)
@example(rate_limit='"a";r=0;t=7;x=@999999999999999', policy=None)
@example(rate_limit='"a";r=0;t=7;x=%"%ff"', policy=None)
@example(rate_limit='"a";r=0;t=999999999999.999', policy=None)
@example(rate_limit='"a";r=0;t=7', policy="\ud800")
@example(rate_limit='"a";r=0', policy='"a";q=999999999999999;w=1')
def test_junk_gives_no_quota_or_a_valid_one(rate_limit: str | None, policy: str | None) -> None:
    exhausted = read_exhausted_quota(rate_limit, policy, NOW)
    if exhausted is not None:
        assert 0 < exhausted.ms <= MAX_RETRY_AFTER_MS
        assert exhausted.per_second is None or exhausted.per_second > 0
