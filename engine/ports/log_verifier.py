"""Verification of the log."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from guestledger.engine.log.verification import LogVerification


class LogVerifier(Protocol):
    """Reads the log as it is stored, event by event."""

    async def verify(
        self, since: datetime | None, until: datetime | None, advanced: Callable[[int], None]
    ) -> LogVerification:
        """Verify what was recorded from `since` on and before `until`. `advanced` gets each position reached."""
        ...
