"""What can go wrong, in the words of this field. No text here ever carries a secret or personal datum."""

from collections.abc import Iterable
from datetime import date
from traceback import walk_tb
from uuid import UUID

from guestledger.engine.domain.causes import Cause
from guestledger.engine.limits.admission import Denied


class GuestledgerError(Exception):
    """Anything this engine raises on purpose."""


def in_short(error: BaseException, within: str | tuple[str, ...] = "") -> str:
    """An error in one line for a log: its text if it is one of ours, else its kind and place. Others' texts may hold guests' data.

    The place is the innermost in a module whose name begins with `within`.
    """
    if isinstance(error, GuestledgerError):
        return str(error)
    frames = walk_tb(error.__traceback__)
    places = [
        f"{name}, line {line}" for f, line in frames if (name := f.f_globals.get("__name__", "")).startswith(within)
    ]
    return " in ".join([type(error).__name__, *places[-1:]])


class InvalidRequest(GuestledgerError):
    """A guest request that is refused at the door: nothing of it was recorded.

    `field` is the path in the request (`consent.marketing`; empty for the request as a whole), `reason` says what is wrong.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class IdempotencyConflict(InvalidRequest):
    """The caller's idempotency key was used before, for a different request."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(
            "idempotencyKey",
            f"was used before for a different request (session {stream_id}): "
            "send the same request again, or use a new key",
        )
        self.stream_id = stream_id


class SessionNotFound(GuestledgerError):
    """No session has this id, neither the engine's own nor CXone's."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"no session has the id {wanted!r}: `guestledger sessions` lists them")


class PartitionDetached(SessionNotFound):
    """The session is known, but its events lie in a month that has been taken out of the log."""

    def __init__(self, stream_id: UUID, month: date) -> None:
        GuestledgerError.__init__(
            self,
            f"session {stream_id} began in {month:%Y-%m}, a month that is detached from the log: "
            f"`guestledger partitions attach {month:%Y-%m}` brings it back",
        )


class PartitionRefused(GuestledgerError):
    """A month of the log cannot be detached or attached now; the text says why. Nothing was changed."""


class RedeliveryRefused(GuestledgerError):
    """The webhook's notice of a session cannot be sent anew now; the text says why. Nothing was recorded."""

    def __init__(self, stream_id: UUID, why: str) -> None:
        super().__init__(f"session {stream_id} gets no redelivery: {why}")
        self.stream_id = stream_id


class ResolutionRefused(GuestledgerError):
    """What a person decided of a parked session cannot be recorded; the text says why. Nothing was recorded."""

    def __init__(self, stream_id: UUID, why: str) -> None:
        super().__init__(f"session {stream_id} cannot be resolved: {why}")
        self.stream_id = stream_id


class WrongExpectedVersion(GuestledgerError):
    """An append was turned away because its stream has moved on. Nothing of that append was recorded."""

    def __init__(self, stream_id: UUID, expected: int, actual: int) -> None:
        super().__init__(f"stream {stream_id}: expected version {expected}, but it is at {actual}")
        self.stream_id = stream_id
        self.expected = expected
        self.actual = actual


class EventTooLarge(GuestledgerError):
    """An append was turned away because one of its events is too large to be kept. Nothing of that append was recorded.

    `size` and `limit` are bytes of the event's canonical JSON.
    """

    def __init__(self, event_type: str, size: int, limit: int) -> None:
        super().__init__(f"a {event_type} of {size} bytes is too large for the log, which takes up to {limit} bytes")
        self.event_type = event_type
        self.size = size
        self.limit = limit


class UnknownEvent(GuestledgerError):
    """A recorded event that this release cannot read: its type or schema version is newer, or its data do not fit them.

    `position`, `stream_id` and `version` say which it is, where it was met in a log. It is reported, never passed over.
    """

    def __init__(self, event_type: str, schema_version: int, *, misfit: str = "") -> None:
        what = (
            f"does not fit at {misfit}: a newer release wrote it (upgrade guestledger here), or it was changed by hand"
            if misfit
            else "is not known to this release: it was written by a newer release; upgrade guestledger here"
        )
        self.reason = f"event {event_type!r} with schema version {schema_version} {what}"
        super().__init__(self.reason)
        self.event_type = event_type
        self.schema_version = schema_version
        self.position: int | None = None
        self.stream_id: UUID | None = None
        self.version: int | None = None

    def found_at(self, position: int, stream_id: UUID, version: int) -> "UnknownEvent":
        """The same error, naming the event's place in the log."""
        self.position, self.stream_id, self.version = position, stream_id, version
        self.args = (f"position {position}, stream {stream_id}, version {version}: {self.reason}",)
        return self


class UnknownProjection(GuestledgerError):
    """There is no projection of this name."""

    def __init__(self, wanted: str, known: Iterable[str]) -> None:
        super().__init__(f"there is no projection {wanted!r}: there are {', '.join(known)}")


class ProjectionStopped(GuestledgerError):
    """A projection has met an event that it cannot take in; it names the event. The others go on.

    It is tried again with every catch-up, so it goes on by itself once a release that can is at work.
    """


class RebuildInterrupted(GuestledgerError):
    """A rebuild or a verification of a projection gave way to another one, or was refused because of it."""


class ServiceError(GuestledgerError):
    """A service that the engine needs cannot be used now. What was accepted stays pending; a worker goes on with it."""

    accepted: UUID | None = None
    """The session that had been accepted when `open_session` met this."""


class ServiceUnreachable(ServiceError):
    """The service does not answer, or answers only with faults."""

    def __init__(self, service: str, cause: Cause, detail: str = "") -> None:
        super().__init__(service, cause, detail)
        self.service = service
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.service} unreachable: {self.cause}" + (f" ({self.detail})" if self.detail else "")


class RequestDenied(ServiceUnreachable):
    """The limiter named `limiter` denies a request to the service."""

    def __init__(self, service: str, limiter: str, denied: Denied) -> None:
        ServiceUnreachable.__init__(self, service, Cause.RATE_LIMITED)
        self.args = (service, limiter, denied)
        self.limiter = limiter
        self.denied = denied

    def __str__(self) -> str:
        return f"{self.service}: limiter {self.limiter!r} denies requests until {self.denied.until:%Y-%m-%dT%H:%M:%SZ}"


class CredentialsRefused(ServiceError):
    """The service refused the credentials."""

    def __init__(self, service: str, cause: Cause, detail: str = "") -> None:
        super().__init__(service, cause, detail)
        self.service = service
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.service} refused the credentials: {self.cause}" + (f" ({self.detail})" if self.detail else "")
