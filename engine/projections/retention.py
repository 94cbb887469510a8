"""How much contact data a ledger keeps."""

from datetime import datetime

import msgspec


class RetentionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whose contact data is kept, in numbers of sessions."""

    retention_days: int | None
    """The policy; `None`: contact data is kept until somebody erases it."""
    kept: int
    """Contact data is kept. Counts `open`, `held`, `due` and `detached` too."""
    open: int
    """Not over yet: retention does not count so far."""
    held: int
    """Under a legal hold, whatever the retention says."""
    due: int
    """The retention is over: a worker erases the contact data next."""
    detached: int
    """The retention is over, but the session's partition is detached: attach it, or nothing can be recorded."""
    erased: int
    oldest: datetime | None
    """When the oldest session whose contact data is kept was opened (UTC); `None`: there is none."""
