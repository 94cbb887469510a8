"""The chart of outcomes over time: stacked bars, made here as numbers for an SVG."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from guestledger.adapters.forms.metrics import OUTCOMES
from guestledger.engine.projections.metrics import HourlyOutcomes

HEIGHT = 150
"""Of the highest bar, in pixels."""


class Span(StrEnum):
    """Which time a chart shows."""

    DAY = "day"
    WEEKS = "weeks"

    @property
    def step(self) -> timedelta:
        """What one bar is about."""
        return timedelta(hours=1) if self is Span.DAY else timedelta(days=1)

    @property
    def bars(self) -> int:
        """How many bars there are."""
        return 24 if self is Span.DAY else 14

    def since(self, now: datetime) -> datetime:
        """When the first bar begins: a whole hour or day (UTC)."""
        whole = now.replace(minute=0, second=0, microsecond=0)
        whole = whole if self is Span.DAY else whole.replace(hour=0)
        return whole - (self.bars - 1) * self.step


class Part(NamedTuple):
    """One outcome in a bar. Positions are pixels from the top."""

    outcome: str
    sessions: int
    top: float
    height: float


class Bar(NamedTuple):
    """One hour or day. Positions are percent of the width."""

    at: datetime
    label: str
    left: float
    width: float
    parts: list[Part]
    counts: Mapping[str, int]


class Chart(NamedTuple):
    """Sessions by outcome over time."""

    bars: list[Bar]
    most: int
    """Of one bar."""
    totals: Mapping[str, int]


def chart(hours: Sequence[HourlyOutcomes], span: Span, now: datetime) -> Chart:
    """Return the chart of these hours, up to `now`."""
    since, counted = span.since(now), [dict.fromkeys(OUTCOMES, 0) for _ in range(span.bars)]
    for one in hours:
        place = (one.hour - since) // span.step
        if 0 <= place < span.bars:
            for name in OUTCOMES:
                counted[place][name] += one.counts[name]
    most = max(sum(counts.values()) for counts in counted)
    return Chart(
        bars=[_bar(number, counts, span, since, most) for number, counts in enumerate(counted)],
        most=most,
        totals={name: sum(counts[name] for counts in counted) for name in OUTCOMES},
    )


def _bar(number: int, counts: Mapping[str, int], span: Span, since: datetime, most: int) -> Bar:
    at, width, bottom = since + number * span.step, 100 / span.bars, float(HEIGHT)
    parts = []
    for outcome in OUTCOMES:
        if sessions := counts[outcome]:
            height = max(2.0, round(HEIGHT * sessions / most, 2))
            bottom -= height
            parts.append(Part(outcome, sessions, round(bottom, 2), height))
    label = f"{at:%H}:00" if span is Span.DAY else f"{at:%d %b}"
    return Bar(at, label, round(number * width + 0.1 * width, 3), round(0.8 * width, 3), parts, counts)
