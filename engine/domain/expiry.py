"""Which expiry times are possible. Servers write "never" and "unset" as the last and the first representable time."""

from datetime import UTC, datetime, timedelta

_OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
_LONGEST = timedelta(days=36_525)
"""A hundred years."""


def is_possible_expiry(expires_at: datetime, now: datetime) -> bool:
    """Whether a token can expire then. Times beyond these bounds also overflow in PostgreSQL and in sums."""
    return expires_at >= _OLDEST and expires_at - now <= _LONGEST
