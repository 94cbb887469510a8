"""Errors: what was recorded, or given to be replayed, cannot be read."""

from uuid import UUID

from guestledger.engine.domain.errors import GuestledgerError


class UnknownEvent(GuestledgerError):
    """A recorded event that this release cannot read: its type or schema version is newer, or its data do not fit.

    It is never skipped.
    """

    def __init__(self, event_type: str, schema_version: int, *, misfit: str = "") -> None:
        what = (
            f"does not fit at {misfit}: a newer release wrote it, or it was changed"
            if misfit
            else "is unknown to this release: a newer one wrote it"
        )
        self.reason = f"event {event_type!r} with schema version {schema_version} {what}"
        super().__init__(self.reason)
        self.event_type = event_type
        self.schema_version = schema_version
        self.position: int | None = None
        self.stream_id: UUID | None = None
        self.version: int | None = None

    def found_at(self, position: int, stream_id: UUID, version: int) -> "UnknownEvent":
        """The same error with the event's place in the log."""
        self.position, self.stream_id, self.version = position, stream_id, version
        self.args = (f"position {position}, stream {stream_id}, version {version}: {self.reason}",)
        return self


class UnknownPolicy(GuestledgerError):
    """A recorded policy that this release cannot read."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"the recorded policy {digest} is unknown to this release: a newer one wrote it")
        self.digest = digest


class InvalidPolicy(GuestledgerError):
    """A policy to ask about, or a change of one, is none. `reason` names the field and what is allowed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the policy is refused: {reason}")
        self.reason = reason


class BundleRefused(GuestledgerError):
    """A bundle cannot be read: the text names the file, the line, what is wrong with it, and what to do."""

    def __init__(self, name: str, line: int, problem: str) -> None:
        super().__init__(f"{name}, line {line}: {problem}")
        self.name = name
        self.line = line
        self.problem = problem


class SealedEventBroken(UnknownEvent):
    """The sealed personal data of an event do not open, or do not fit the event's commitments."""

    def __init__(self, event_type: str, schema_version: int) -> None:
        super().__init__(event_type, schema_version)
        self.reason = f"the personal data of event {event_type!r} do not fit it: they were changed"
        self.args = (self.reason,)
