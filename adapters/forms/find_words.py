"""What a search for sessions found, in words."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from guestledger.adapters.forms.values import time

if TYPE_CHECKING:
    from guestledger.engine.ports.session_finder import FindFilter, FoundSession


def nothing_sentence(wanted: FindFilter, earlier: FoundSession | None, within: str = "--within") -> str:
    """Say that nothing was found, and what was looked at. `within` names the field that makes the time longer."""
    names = {
        "of this guest": wanted.guest,
        "with this id": wanted.session,
        "with this idempotency key": wanted.idempotency_key,
        f"with the correlation id {wanted.correlation_id!r}": wanted.correlation_id,
        f"on channel {wanted.channel_id!r}": wanted.channel_id,
        f"with status {' or '.join(wanted.statuses)}": wanted.statuses,
    }
    which = "".join(f" {words}" for words, given in names.items() if given)
    if wanted.around is None:
        return f"there is no session{which}: what was erased, or is of another ledger, cannot be found"
    text = f"no session{which} had an event {between_words(wanted)}"
    if earlier is None:
        return f"{text}: try a longer {within}"
    return f"{text}; nearest earlier one: {earlier.session.id}, {earlier.event} at {time(earlier.recorded_at)}"


def between_words(wanted: FindFilter) -> str:
    """Say which time was searched."""
    return f"between {time(wanted.since)} and {time(wanted.until)}"


def distance_words(one: FoundSession, moment: datetime) -> str:
    """Say how far an event is from the time that was asked for."""
    seconds = (one.recorded_at - moment).total_seconds()
    return f"{abs(seconds):.0f} s {'after' if seconds >= 0 else 'before'}"
