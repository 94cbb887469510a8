"""A cache for what every session touches."""

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_CACHED = 1_000


class Recent(dict[Key, Value]):
    """The last values that were kept."""

    def keep(self, key: Key, value: Value) -> Value:
        """Add it; the oldest one gives way to it. Returns it."""
        self[key] = value
        if len(self) > MAX_CACHED:
            del self[next(iter(self))]
        return value
