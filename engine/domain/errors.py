"""What can go wrong, in the words of this field. No text here ever carries a secret or personal datum."""

from uuid import UUID


class GuestledgerError(Exception):
    """Anything this engine raises on purpose."""


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


class WrongExpectedVersion(GuestledgerError):
    """An append was turned away because its stream has moved on. Nothing of that append was recorded."""

    def __init__(self, stream_id: UUID, expected: int, actual: int) -> None:
        super().__init__(f"stream {stream_id}: expected version {expected}, but it is at {actual}")
        self.stream_id = stream_id
        self.expected = expected
        self.actual = actual


class UnknownEvent(GuestledgerError):
    """A recorded event that this release cannot read: its type or schema version is newer than the code."""

    def __init__(self, event_type: str, schema_version: int) -> None:
        super().__init__(
            f"event {event_type!r} with schema version {schema_version} is not known to this release: "
            "it was written by a newer one; upgrade guestledger here"
        )


class ServiceError(GuestledgerError):
    """A service that the engine needs cannot be used now. What was accepted stays pending; a worker goes on with it."""

    accepted: UUID | None = None
    """The session that had been accepted when `open_session` met this."""


class ServiceUnreachable(ServiceError):
    """CXone or the database does not answer, or answers only with faults."""


class CredentialsRefused(ServiceError):
    """CXone refused the client id and secret."""
