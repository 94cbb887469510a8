"""The machine's clock and chance."""

import random
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7


class SystemClock:
    """Time from the operating system, jitter from its generator, ids by RFC 9562 (UUIDv7)."""

    def now(self) -> datetime:
        """The time (UTC)."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()  # noqa: S311 - it spreads retries, it guards nothing

    def new_id(self) -> UUID:
        """A fresh UUIDv7: ids made later sort later."""
        return uuid7()
