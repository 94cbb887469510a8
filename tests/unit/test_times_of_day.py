"""Times and spans as a person gives them to a command."""

from datetime import UTC, datetime, timedelta

import pytest
import typer

from guestledger.adapters.cli import options

NOW = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)


class _Clock(datetime):
    @classmethod
    def now(cls, _tz: object = None) -> datetime:
        return NOW


@pytest.fixture(autouse=True)
def at_half_past_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "datetime", _Clock)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("02:14", datetime(2026, 11, 3, 2, 14, tzinfo=UTC)),
        ("2:14", datetime(2026, 11, 3, 2, 14, tzinfo=UTC)),
        ("09:30", NOW),
        ("09:31", datetime(2026, 11, 2, 9, 31, tzinfo=UTC)),
        ("02:14:30Z", datetime(2026, 11, 3, 2, 14, 30, tzinfo=UTC)),
        ("02:14+02:00", datetime(2026, 11, 3, 0, 14, tzinfo=UTC)),
        ("01:14+02:00", datetime(2026, 11, 2, 23, 14, tzinfo=UTC)),
        ("23:00-1200", datetime(2026, 11, 2, 11, 0, tzinfo=UTC)),
        ("2026-11-01T02:14:00Z", datetime(2026, 11, 1, 2, 14, tzinfo=UTC)),
        ("2 hours ago", datetime(2026, 11, 3, 7, 30, tzinfo=UTC)),
    ],
)
def test_a_time_of_day_is_the_latest_one_that_has_passed(text: str, expected: datetime) -> None:
    assert options.around(text) == expected


@pytest.mark.parametrize("text", ["25:00", "02:60", "2:14 pm", "02", "0214", "soon", "", "99999999 weeks ago"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.around(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", timedelta(seconds=30)), ("10 min", timedelta(minutes=10)), ("2h", timedelta(hours=2))],
)
def test_a_span_has_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    assert options.span(text) == expected


@pytest.mark.parametrize("text", ["10", "0m", "-5m", "1 hour ago", "02:14", "99999999999999 weeks"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.span(text)
