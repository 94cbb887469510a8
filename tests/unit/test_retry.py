"""How long to wait: what the server asked for, and the backoff on top."""

from datetime import UTC, datetime, timedelta

import pytest

from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, RetryPolicy, backoff_ms, read_retry_after

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
def test_seconds_are_read_as_seconds(given: str, ms: int) -> None:
    read = read_retry_after(given, None, NOW)
    assert (read.ms, read.given) == (ms, given.strip()[:64])
    assert str(ms) in read.why


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
def test_a_date_is_read_as_the_time_until_then(given: str) -> None:
    assert read_retry_after(given, None, NOW).ms == 30_000


def test_a_date_is_read_against_the_servers_own_clock() -> None:
    slow_here = NOW - timedelta(hours=2)
    assert read_retry_after("Mon, 20 May 2024 14:00:30 GMT", TODAY, slow_here).ms == 30_000


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 May 2024 14:00:00 GMT"])
def test_a_date_is_read_against_the_clock_here_when_the_servers_says_nothing(date: str) -> None:
    assert read_retry_after("Mon, 20 May 2024 14:00:30 GMT", date, NOW).ms == 30_000


def test_the_wait_until_a_date_is_never_a_fraction_short() -> None:
    now = NOW + timedelta(microseconds=500_700)
    assert read_retry_after("Mon, 20 May 2024 14:00:02 GMT", None, now).ms == 1_500
    assert now + timedelta(milliseconds=1_500) >= NOW + timedelta(seconds=2)


@pytest.mark.parametrize("given", ["Mon, 20 May 2024 13:59:59 GMT", TODAY, "Mon, 01 Jan 0001 00:00:00 +2300"])
def test_a_date_that_has_passed_asks_for_no_wait(given: str) -> None:
    assert read_retry_after(given, TODAY, NOW).ms == 0


@pytest.mark.parametrize(
    ("given", "ms"), [("60.0", 60_000), ("60.000000", 60_000), ("1.5", 2_000), ("7.0001", 8_000), ("0.1", 1_000)]
)
def test_parts_of_a_second_count_as_a_whole_one(given: str, ms: int) -> None:
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
def test_of_several_the_longest_that_can_be_read_counts(given: str, ms: int) -> None:
    read = read_retry_after(given, TODAY, NOW)
    assert (read.given, read.ms) == (given[:64], ms)
    assert str(ms) in read.why


def test_an_absent_header_is_read_as_two_seconds() -> None:
    read = read_retry_after(None, None, NOW)
    assert (read.given, read.ms) == (None, 2_000)
    assert "no Retry-After" in read.why


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
def test_a_header_that_makes_no_sense_is_read_as_two_seconds(given: str) -> None:
    read = read_retry_after(given, TODAY, NOW)
    assert read.ms == 2_000
    assert "unreadable" in read.why


@pytest.mark.parametrize(
    "given",
    ["999999999999", "9" * 13, "9" * 5_000, "9" * 5_000 + ".5", "7, 999999999999", "Fri, 31 Dec 9999 23:59:59 -2300"],
)
def test_a_huge_wait_is_read_as_one_that_can_still_be_added_to_a_time(given: str) -> None:
    read = read_retry_after(given, TODAY, NOW)
    assert read.ms == MAX_RETRY_AFTER_MS
    assert NOW + timedelta(milliseconds=read.ms) > NOW


@pytest.mark.parametrize(
    ("given", "shown"),
    [("x" * 500, "x" * 64), ("so\udcffon", "so\\udcffon"), ("so\x00on", "so\\x00on"), ("ü" * 500, "\\xfc" * 16)],
    ids=["long", "bytes", "control", "latin"],
)
def test_a_header_is_kept_short_and_in_plain_letters(given: str, shown: str) -> None:
    assert read_retry_after(given, None, NOW).given == shown


POLICY = RetryPolicy(base_ms=500, cap_ms=60_000)


@pytest.mark.parametrize(
    ("tries", "ceiling"), [(1, 500), (2, 1_000), (3, 2_000), (7, 32_000), (8, 60_000), (9, 60_000)]
)
def test_backoff_is_drawn_below_a_ceiling_that_doubles_up_to_the_cap(tries: int, ceiling: int) -> None:
    assert backoff_ms(tries, POLICY, 0.0) == 0
    assert backoff_ms(tries, POLICY, 0.5) == ceiling // 2
    assert backoff_ms(tries, POLICY, 0.9999) == int(ceiling * 0.9999) < ceiling


def test_backoff_stays_at_the_cap_however_often_it_was_tried() -> None:
    assert backoff_ms(1_000_000, POLICY, 0.5) == 30_000


def test_a_cap_below_the_base_holds_from_the_first_try() -> None:
    assert backoff_ms(1, RetryPolicy(base_ms=500, cap_ms=100), 0.5) == 50
