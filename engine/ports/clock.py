"""Time, chance and ids."""

from datetime import datetime
from typing import Protocol
from uuid import UUID


class Clock(Protocol):
    """The inputs that the domain takes as arguments."""

    def now(self) -> datetime:
        """The time (UTC)."""
        ...

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def new_id(self) -> UUID:
        """A fresh UUIDv7 of this clock's time."""
        ...

    def new_key(self) -> str:
        """A random key of 32 bytes (hex)."""
        ...
