"""A cache for what every session touches."""

from collections import OrderedDict
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_CACHED = 1_000


class Recent(OrderedDict[Key, Value]):
    """The last values that were kept."""

    def keep(self, key: Key, value: Value) -> Value:
        """Add it; the oldest one gives way to it. Returns it."""
        self[key] = value
        if len(self) > MAX_CACHED:
            self.popitem(last=False)  # a plain dict would look past all that were dropped before
        return value
