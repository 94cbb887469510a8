"""The state of a rate limiter, in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from guestledger.adapters.forms.messages import closed_words

if TYPE_CHECKING:
    from guestledger.engine.limits.pace import Pace
    from guestledger.engine.limits.state import LimiterState


def limiter_facts(state: LimiterState) -> Iterator[tuple[str, str]]:
    """Yield what is known about a limiter: a name, and a value, empty if there is none."""
    yield "closed until", _time(state.closed_until)
    yield "because of", "" if state.closed_by is None else closed_words(state.closed_by)
    yield "failures in a row:", str(state.failures or "")
    yield "circuit open until", _time(state.broken_until)
    yield "probe reserved until", _time(state.probe_until)
    yield "rate:", "" if state.pace is None else _learned(state.pace)


def _learned(pace: Pace) -> str:
    """What was learned, in one line."""
    share = (
        ""
        if pace.throttled_share is None
        else f", {100 * pace.throttled_share:.2g} % of recent requests were throttled"
    )
    limit = "" if pace.limit is None else f", the API seems to bear {_rate(pace.limit)}"
    chance = ", 429s do not depend on the rate" if pace.by_chance else ""
    return f"{'unlimited' if pace.is_unlimited else _rate(pace.rate)}{limit}{chance}{share}"


def _rate(rate: float) -> str:
    return f"{rate:.3g}/s" if rate < 1_000 else f"{rate:.0f}/s"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "seconds")
