"""The partition of a stream, by the time in its id."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, strategies as st

from guestledger.engine.log.recorded import NO_MONTH, month_bounds, month_of
from tests import logs


@pytest.mark.parametrize(
    ("began", "month"),
    [
        (datetime(2024, 2, 29, 23, 59, 59, 999_000, tzinfo=UTC), date(2024, 2, 1)),
        (datetime(2024, 3, 1, tzinfo=UTC), date(2024, 3, 1)),
        (datetime(2026, 12, 31, 12, tzinfo=UTC), date(2026, 12, 1)),
    ],
)
def test_the_partition_month_comes_from_the_utc_time_in_the_stream_id(began: datetime, month: date) -> None:
    assert month_of(logs.new_stream(began)) == month


def test_the_example_of_rfc_9562_falls_into_february_2022() -> None:
    assert month_of(UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")) == date(2022, 2, 1)


@given(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_stream_id_lies_within_the_bounds_of_its_partition(began: datetime) -> None:
    stream_id = logs.new_stream(began)
    month = month_of(stream_id)
    first, end = month_bounds(month)

    assert first <= stream_id < end
    assert month_of(first) == NO_MONTH  # bounds are no UUIDv7
    assert month_bounds((month + timedelta(days=31)).replace(day=1))[0] == end


def test_an_id_without_a_time_falls_into_january_1970() -> None:
    assert month_of(uuid4()) == date(1970, 1, 1)
