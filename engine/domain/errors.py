"""What can go wrong. No text here carries a secret or personal data."""

from collections.abc import Iterable, Sequence
from datetime import date
from enum import StrEnum
from traceback import walk_tb
from uuid import UUID

from guestledger.engine.domain.causes import Cause
from guestledger.engine.limits.admission import Denied


class GuestledgerError(Exception):
    """The base of this package's errors."""


def in_short(error: BaseException, within: str | tuple[str, ...] = "") -> str:
    """One line for a log: our own text, else type and innermost place in a module whose name starts with `within`.

    Other texts may quote data.
    """
    if isinstance(error, GuestledgerError):
        return str(error)
    frames = walk_tb(error.__traceback__)
    places = [
        f"{name}, line {line}" for f, line in frames if (name := f.f_globals.get("__name__", "")).startswith(within)
    ]
    return " in ".join([type(error).__name__, *places[-1:]])


class InvalidRequest(GuestledgerError):
    """A request was refused, and nothing recorded.

    `field` is the path in it (`consent.marketing`; empty: the whole request), `reason` says what is wrong.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class IdempotencyConflict(InvalidRequest):
    """The idempotency key was used for a request that differs in `fields` (paths)."""

    def __init__(self, stream_id: UUID, fields: tuple[str, ...]) -> None:
        super().__init__(
            "idempotencyKey",
            f"was used before with another {' and '.join(fields)} (session {stream_id}): repeat that request, or use a new key",
        )
        self.stream_id = stream_id
        self.fields = fields


class SessionNotFound(GuestledgerError):
    """No session has this id, neither ours nor the provider's."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"no session has the id {wanted!r}")
        self.wanted = wanted


class SessionIdShared(SessionNotFound):
    """The provider gave this id to several guests, so it names no session."""

    def __init__(self, wanted: str, sessions: Sequence[UUID]) -> None:
        ids = ", ".join(map(str, sessions))
        GuestledgerError.__init__(self, f"several sessions have the provider's id {wanted!r}: name one of {ids}")
        self.wanted = wanted
        self.sessions = tuple(sessions)


class PartitionDetached(SessionNotFound):
    """The session's partition is detached from the log."""

    def __init__(self, stream_id: UUID, partition: date) -> None:
        GuestledgerError.__init__(
            self, f"session {stream_id} is in partition {partition:%Y-%m}, which is detached from the log"
        )
        self.wanted = str(stream_id)
        self.stream_id = stream_id
        self.partition = partition


class PartitionRefused(GuestledgerError):
    """A partition cannot be detached or attached now; the text says why. Nothing was changed."""


class RedeliveryRefusal(StrEnum):
    """Why a notice cannot be sent again."""

    NO_WEBHOOK = "no_webhook"
    NO_SESSION = "no_session"
    IN_DELIVERY = "in_delivery"
    ERASED = "erased"


class RedeliveryRefused(GuestledgerError):
    """A redelivery was refused. Nothing was recorded."""

    def __init__(self, stream_id: UUID, why: RedeliveryRefusal, status: str) -> None:
        super().__init__(f"the notice of session {stream_id} cannot be sent again: {why} (status {status})")
        self.stream_id = stream_id
        self.why = why
        self.status = status


class HoldRefused(GuestledgerError):
    """A legal hold cannot be placed or released; the text says why. Nothing has changed.

    If an erasure of the session began at the same moment, the hold is in the log, and the erasure goes on.
    """


class UnderLegalHold(GuestledgerError):
    """Personal data cannot be erased: a legal hold keeps it. `sessions` are those held; empty: the subject is."""

    def __init__(self, sessions: tuple[UUID, ...] = ()) -> None:
        if sessions:
            what = f"a legal hold keeps the data of session {sessions[0]}"
            what += f" and {len(sessions) - 1} more" if sessions[1:] else ""
        else:
            what = "a legal hold keeps the data of this subject"
        super().__init__(what)
        self.sessions = sessions


class ResolutionRefused(GuestledgerError):
    """A person's decision was refused. Nothing was recorded.

    `holder` is the session that already has the adopted remote session; `None`: this session is not parked.
    """

    def __init__(self, stream_id: UUID, *, status: str, holder: UUID | None = None) -> None:
        why = f"its status is {status}" if holder is None else f"session {holder} has that remote session"
        super().__init__(f"session {stream_id} cannot be resolved: {why}")
        self.stream_id = stream_id
        self.status = status
        self.holder = holder


class WrongExpectedVersion(GuestledgerError):
    """An append was rejected because its stream has moved on. Nothing of it was recorded."""

    def __init__(self, stream_id: UUID, expected: int, actual: int) -> None:
        super().__init__(f"stream {stream_id}: expected version {expected}, but it is at {actual}")
        self.stream_id = stream_id
        self.expected = expected
        self.actual = actual


class EventTooLarge(GuestledgerError):
    """An append was rejected because an event is too large. `size` and `limit` are bytes of its canonical JSON."""

    def __init__(self, event_type: str, size: int, limit: int) -> None:
        super().__init__(f"a {event_type} of {size} bytes exceeds the log's limit of {limit} bytes")
        self.event_type = event_type
        self.size = size
        self.limit = limit


class SubjectErased(GuestledgerError):
    """Personal data of `stream_id` was to be recorded, but the person has been erased, or is being erased now."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(
            f"session {stream_id}: the guest was erased or is being erased now, so no personal data is recorded"
        )
        self.stream_id = stream_id


class NothingToErase(GuestledgerError):
    """No personal data is held on a subject, and none was ever erased. The text does not name the subject."""

    def __init__(self) -> None:
        super().__init__("nothing is held on this subject, and nothing of it was erased before")


class ErasureNotFound(GuestledgerError):
    """No erasure has this id, or it is not complete yet."""

    def __init__(self, erasure: UUID, *, unfinished: bool = False) -> None:
        super().__init__(f"erasure {erasure} is not complete" if unfinished else f"no erasure has the id {erasure}")
        self.erasure = erasure
        self.unfinished = unfinished


class JournalUnusable(GuestledgerError):
    """The journal of erasures cannot be used; `problem` says why. What was to be erased may be, in part."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"the journal of erasures {path} {problem}")
        self.path = path
        self.problem = problem


class ErasuresMissing(GuestledgerError):
    """The database lacks erasures of the journal: an older backup was restored, with data of people who were erased."""

    def __init__(self, path: str, missing: int) -> None:
        super().__init__(
            f"the database lacks {missing} of the erasures in the journal {path}, as after an older backup is restored"
        )
        self.path = path
        self.missing = missing


class NothingHeld(GuestledgerError):
    """No contact data is held on a subject. The text does not name the subject."""

    def __init__(self) -> None:
        super().__init__("no contact data is held on this subject: it is unknown, or it was erased")


class UnknownProjection(GuestledgerError):
    """No projection has this name."""

    def __init__(self, wanted: str, known: Iterable[str]) -> None:
        super().__init__(f"no projection is named {wanted!r}: there are {', '.join(known)}")


class ProjectionStopped(GuestledgerError):
    """A projection stopped at a poison event. Every catch-up retries it."""


class RebuildInterrupted(GuestledgerError):
    """A rebuild or verification gave way to another one."""


class LogSetBack(GuestledgerError):
    """The log no longer holds what was read at `position`: an older backup was restored, or a standby lacked the end.

    Reading on would skip events. `head` is the log's last position now; `consumer` has been stopped.
    """

    def __init__(self, position: int, head: int, consumer: str | None = None) -> None:
        who = f"consumer {consumer!r} is ahead of the log" if consumer else "the log was set back"
        found = f"ends at position {head}" if head < position else f"holds another event at position {position}"
        super().__init__(
            f"{who}: it has read position {position}, and the log {found}, as after an older backup is restored"
        )
        self.position = position
        self.head = head
        self.consumer = consumer


class ServiceError(GuestledgerError):
    """A service cannot be used now. Accepted sessions stay pending; a worker continues them.

    `service` is `provider`, `token endpoint`, `database` or `key vault`; `detail` adds facts to `cause`.
    """

    accepted: UUID | None = None
    """The session that `open_session` had accepted."""

    def __init__(self, service: str, cause: Cause, detail: str = "") -> None:
        super().__init__(service, cause, detail)
        self.service = service
        self.cause = cause
        self.detail = detail

    def with_accepted(self, session: UUID | None) -> "ServiceError":
        """A copy that names the accepted session: concurrent callers may share one exception."""
        own = type(self).__new__(type(self), *self.args)
        own.__dict__.update(self.__dict__)
        own.accepted = session
        return own

    def __str__(self) -> str:
        text = f"the {self.service} cannot be used: {self.cause}"
        return f"{text} ({self.detail})" if self.detail else text


class ServiceUnreachable(ServiceError):
    """The service does not answer, or answers only with faults."""


class LedgerClosed(ServiceError):
    """The ledger was closed while this call was running: it outlived the block of `connect`."""

    def __init__(self) -> None:
        super().__init__("database", Cause.NOT_READY, "the ledger is closed")


class RequestDenied(ServiceUnreachable):
    """The rate limiter `limiter` denies a request to the service."""

    def __init__(self, service: str, limiter: str, denied: Denied) -> None:
        super().__init__(service, Cause.RATE_LIMITED, f"limiter {limiter!r} until {denied.until:%Y-%m-%dT%H:%M:%SZ}")
        self.limiter = limiter
        self.denied = denied


class CredentialsRefused(ServiceError):
    """The service refused our credentials, scope or grant: `cause` says which."""
