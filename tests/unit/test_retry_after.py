"""Reading `Retry-After`."""

from datetime import UTC, datetime, timedelta

import pytest

from guestledger.adapters.http.retry_after import read_retry_after
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, WaitBasis

NOW = datetime(2024, 5, 20, 14, 0, 0, tzinfo=UTC)
TODAY = "Mon, 20 May 2024 14:00:00 GMT"


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        ("0", 0),
        ("1", 1_000),
        ("120", 120_000),
        ("  7 ", 7_000),
        ("007", 7_000),
        ("3600", 3_600_000),
        ("0" * 5_000 + "5", 5_000),
    ],
)
def test_retry_after_in_seconds_is_parsed(given: str, ms: int) -> None:
    read = read_retry_after(given, None, NOW)
    assert (read.ms, read.given, read.basis) == (ms, given.strip()[:64], WaitBasis.RETRY_AFTER)


@pytest.mark.parametrize(
    "given",
    [
        "Mon, 20 May 2024 14:00:30 GMT",
        "Monday, 20-May-24 14:00:30 GMT",
        "Mon May 20 14:00:30 2024",
        "Mon, 20 May 2024 16:00:30 +0200",
    ],
    ids=["imf-fixdate", "rfc850", "asctime", "offset"],
)
def test_date_is_read_as_the_time_until_then(given: str) -> None:
    read = read_retry_after(given, None, NOW)
    assert (read.ms, read.basis) == (30_000, WaitBasis.RETRY_AFTER_DATE)


def test_date_is_relative_to_the_servers_date() -> None:
    slow_here = NOW - timedelta(hours=2)
    assert read_retry_after("Mon, 20 May 2024 14:00:30 GMT", TODAY, slow_here).ms == 30_000


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 May 2024 14:00:00 GMT"])
def test_date_is_relative_to_the_local_clock_as_a_fallback(date: str) -> None:
    assert read_retry_after("Mon, 20 May 2024 14:00:30 GMT", date, NOW).ms == 30_000


def test_wait_until_a_date_is_rounded_up() -> None:
    now = NOW + timedelta(microseconds=500_700)
    assert read_retry_after("Mon, 20 May 2024 14:00:02 GMT", None, now).ms == 1_500
    assert now + timedelta(milliseconds=1_500) >= NOW + timedelta(seconds=2)


@pytest.mark.parametrize("given", ["Mon, 20 May 2024 13:59:59 GMT", TODAY, "Mon, 01 Jan 0001 00:00:00 +2300"])
def test_past_date_means_no_wait(given: str) -> None:
    assert read_retry_after(given, TODAY, NOW).ms == 0


@pytest.mark.parametrize(
    ("given", "ms"), [("60.0", 60_000), ("60.000000", 60_000), ("1.5", 2_000), ("7.0001", 8_000), ("0.1", 1_000)]
)
def test_fraction_counts_as_a_whole_second(given: str, ms: int) -> None:
    assert read_retry_after(given, None, NOW).ms == ms


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        ("1, 60", 60_000),
        ("60,1", 60_000),
        ("120, 120", 120_000),
        ("5,", 5_000),
        (", , 5", 5_000),
        ("soon, 5, -7", 5_000),
        (f"{TODAY}, 5", 5_000),
        ("5, Mon, 20 May 2024 14:00:30 GMT, Mon, 20 May 2024 14:00:20 GMT", 30_000),
        ("Mon, 20 May 2024 14:00:30 GMT, 31", 31_000),
        ("Mon May 20 14:00:30 2024, Monday, 20-May-24 14:00:40 GMT", 40_000),
    ],
)
def test_longest_readable_value_counts(given: str, ms: int) -> None:
    read = read_retry_after(given, TODAY, NOW)
    assert (read.given, read.ms) == (given[:64], ms)
    assert read.basis in (WaitBasis.RETRY_AFTER, WaitBasis.RETRY_AFTER_DATE)


def test_missing_header_means_two_seconds() -> None:
    read = read_retry_after(None, None, NOW)
    assert (read.given, read.ms, read.basis) == (None, 2_000, WaitBasis.RETRY_AFTER_MISSING)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "   ",
        "-5",
        "-1",
        "+5",
        "1.",
        ".5",
        "1.5.5",
        "1e3",
        "0x10",
        "1_000",
        "5 seconds",
        ",",
        "soon, later",
        "1;2",
        "soon",
        "Infinity",
        "NaN",
        "null",
        "٣",
        "²",
        "\uff15",
        "Mon, 99 May 2024 14:00:30 GMT",
        "20 May 2024 14:00:30 +9999",
    ],
)
def test_unreadable_header_means_two_seconds(given: str) -> None:
    read = read_retry_after(given, TODAY, NOW)
    assert (read.ms, read.basis) == (2_000, WaitBasis.RETRY_AFTER_UNREADABLE)


@pytest.mark.parametrize(
    "given",
    ["999999999999", "9" * 13, "9" * 5_000, "9" * 5_000 + ".5", "7, 999999999999", "Fri, 31 Dec 9999 23:59:59 -2300"],
)
def test_huge_wait_is_limited(given: str) -> None:
    read = read_retry_after(given, TODAY, NOW)
    assert read.ms == MAX_RETRY_AFTER_MS
    assert NOW + timedelta(milliseconds=read.ms) > NOW


@pytest.mark.parametrize(
    ("given", "shown"),
    [("x" * 500, "x" * 64), ("so\udcffon", "so\\udcffon"), ("so\x00on", "so\\x00on"), ("ü" * 500, "\\xfc" * 16)],
    ids=["long", "bytes", "control", "latin"],
)
def test_header_is_shortened_and_escaped(given: str, shown: str) -> None:
    assert read_retry_after(given, None, NOW).given == shown


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        ("1716213630", 30_000),
        ("1716213630.4", 31_000),
        ("1716213630000", 30_000),
        ("1716213630250", 30_250),
        ("1716213599", 0),
        ("1000000000", 0),
        ("5, 1716213630", 30_000),
    ],
)
def test_unix_time_means_the_time_until_then(given: str, ms: int) -> None:
    read = read_retry_after(given, TODAY, NOW - timedelta(hours=2))
    assert read.ms == ms
    assert read.basis is WaitBasis.RETRY_AFTER_EPOCH or given.startswith("5,")


def test_spans_below_thirty_years_are_no_unix_times() -> None:
    read = read_retry_after("999999999", None, NOW)
    assert (read.ms, read.basis) == (MAX_RETRY_AFTER_MS, WaitBasis.RETRY_AFTER)


@pytest.mark.parametrize("given", ["61", "30000", "9" * 13, "Fri, 31 Dec 9999 23:59:59 GMT", "1716300000"])
def test_longer_wait_than_allowed_is_cut(given: str) -> None:
    read = read_retry_after(given, TODAY, NOW, 60_000)
    assert (read.ms, read.basis, read.given) == (60_000, WaitBasis.RETRY_AFTER_CAPPED, given)
