"""Problem details (RFC 9457): one table of kinds, and one that maps errors to them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from guestledger.adapters.api.exchange import PROBLEM, Response
from guestledger.engine.domain.errors import GuestledgerError, InvalidRequest, RequestDenied, ServiceError

TYPES = "/problems/"


class Kind(NamedTuple):
    """What all problems of one code share."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "invalid-request": Kind(422, "The request is invalid; nothing was recorded"),
    "policy-invalid": Kind(422, "The policy is not one"),
    "bundle-refused": Kind(422, "The bundle cannot be read"),
    "idempotency-conflict": Kind(422, "The idempotency key was used for another request"),
    "key-missing": Kind(401, "An access key is needed"),
    "key-invalid": Kind(401, "The access key is unknown or revoked"),
    "role-not-allowed": Kind(403, "The access key's role may not do this"),
    "origin-not-allowed": Kind(403, "The request comes from another site"),
    "route-not-found": Kind(404, "There is nothing at this path"),
    "session-not-found": Kind(404, "No session has this id"),
    "limiter-not-found": Kind(404, "No such limiter restricts anything"),
    "erasure-not-found": Kind(404, "There is no such erasure, or it is not complete"),
    "nothing-held": Kind(404, "Nothing is held on this person"),
    "projection-not-found": Kind(404, "There is no such projection"),
    "method-not-allowed": Kind(405, "The path does not support this method"),
    "not-acceptable": Kind(406, "The answer cannot be given in this format"),
    "request-timeout": Kind(408, "The body did not arrive in time"),
    "session-id-shared": Kind(409, "Several sessions have this id"),
    "partition-detached": Kind(409, "The session is in a detached partition"),
    "partition-refused": Kind(409, "The partition cannot be changed now"),
    "redelivery-refused": Kind(409, "The notice cannot be sent again"),
    "resolution-refused": Kind(409, "The session cannot be resolved"),
    "hold-refused": Kind(409, "The legal hold cannot be placed or released"),
    "under-legal-hold": Kind(409, "A legal hold keeps this personal data"),
    "subject-erased": Kind(409, "The person was erased, or is being erased now"),
    "rebuild-interrupted": Kind(409, "A rebuild gave way to another one"),
    "log-set-back": Kind(409, "The log no longer holds what was read"),
    "version-conflict": Kind(412, "The session is at another version"),
    "body-too-large": Kind(413, "The body is too large"),
    "event-too-large": Kind(413, "The request is too large to be recorded"),
    "url-too-long": Kind(414, "The URL is too long"),
    "media-type-not-supported": Kind(415, "The body has the wrong type"),
    "rate-limited": Kind(429, "The key makes too many requests"),
    "headers-too-large": Kind(431, "The headers are too large"),
    "internal": Kind(500, "Something went wrong"),
    "event-unreadable": Kind(500, "A recorded event cannot be read"),
    "database-fault": Kind(500, "The database rejected a statement"),
    "not-configured": Kind(503, "The server is not set up for this"),
    "not-ready": Kind(503, "The server is not ready"),
    "service-unavailable": Kind(503, "A service cannot be used now"),
    "provider-limited": Kind(503, "The provider's rate limit allows no request now"),
    "journal-unusable": Kind(503, "The journal of erasures cannot be used"),
    "projection-stopped": Kind(503, "A projection has stopped"),
    "time-limit": Kind(504, "The request took too long"),
}
"""By `code`. `docs/http-api.md` lists them."""

ERRORS: Mapping[str, str] = {
    "InvalidRequest": "invalid-request",
    "InvalidPolicy": "policy-invalid",
    "BundleRefused": "bundle-refused",
    "IdempotencyConflict": "idempotency-conflict",
    "SessionNotFound": "session-not-found",
    "SessionIdShared": "session-id-shared",
    "PartitionDetached": "partition-detached",
    "PartitionRefused": "partition-refused",
    "RedeliveryRefused": "redelivery-refused",
    "HoldRefused": "hold-refused",
    "UnderLegalHold": "under-legal-hold",
    "ResolutionRefused": "resolution-refused",
    "WrongExpectedVersion": "version-conflict",
    "EventTooLarge": "event-too-large",
    "UnknownEvent": "event-unreadable",
    "UnknownPolicy": "event-unreadable",
    "SubjectErased": "subject-erased",
    "NothingToErase": "nothing-held",
    "NothingHeld": "nothing-held",
    "ErasureNotFound": "erasure-not-found",
    "JournalUnusable": "journal-unusable",
    "ErasuresMissing": "not-configured",
    "UnknownProjection": "projection-not-found",
    "ProjectionStopped": "projection-stopped",
    "RebuildInterrupted": "rebuild-interrupted",
    "LogSetBack": "log-set-back",
    "ServiceError": "service-unavailable",
    "RequestDenied": "provider-limited",
    "LedgerNotReady": "not-ready",
    "LedgerClosed": "not-ready",
    "NotAllowed": "not-configured",
    "TooManyPrivileges": "not-configured",
    "UnfitEngine": "not-configured",
    "InvalidSettings": "not-configured",
    "DatabaseFault": "database-fault",
}
"""The code for an exception, by the name of its class or of a base class."""

_HIDDEN = frozenset({"not-configured", "database-fault", "event-unreadable", "journal-unusable", "not-ready"})
"""Their texts are for who runs the server: they name files, users and settings."""
_FACTS = ("field", "fields", "why", "status", "holder", "service", "cause", "accepted", "sessions", "actual", "size")


class Problem(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A problem (RFC 9457). `code` is stable; texts may change. The fields after `code` depend on it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    """`urn:uuid:…`, which is in the log too. For failures of the server."""
    field: str | None = None
    """The path in the request."""
    fields: tuple[str, ...] | None = None
    why: str | None = None
    session: UUID | None = None
    """The session it is about, if it is known."""
    sessions: tuple[UUID, ...] | None = None
    session_status: str | None = None
    holder: UUID | None = None
    """The session that has the remote session already."""
    service: str | None = None
    cause: str | None = None
    accepted: UUID | None = None
    """The session that was accepted before it failed: a worker continues it."""
    actual: int | None = None
    """The session's version."""
    size: int | None = None


class Refused(Exception):
    """A request is answered with a problem."""

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None, **facts: Any) -> None:
        super().__init__(code)
        self.problem = Problem(
            type=TYPES + code, title=KINDS[code].title, status=KINDS[code].status, detail=detail, code=code, **facts
        )
        self.headers = headers or {}

    def response(self) -> Response:
        """Return the response that says so."""
        return Response(
            status=self.problem.status,
            headers={"content-type": PROBLEM, **self.headers},
            body=msgspec.json.encode(self.problem),
        )


def code_of(error: type[GuestledgerError]) -> str:
    """Return the code for a class of exceptions."""
    return next((ERRORS[kind.__name__] for kind in error.__mro__ if kind.__name__ in ERRORS), "internal")


def refusal(error: GuestledgerError, instance: UUID) -> Refused:
    """Return the problem that an exception is answered with. `instance`: what the log calls a failure of the server."""
    code = code_of(type(error))
    failed = KINDS[code].status >= 500
    facts: dict[str, Any] = {name: getattr(error, name) for name in _FACTS if getattr(error, name, None) is not None}
    facts["session"] = getattr(error, "stream_id", None)
    facts["session_status"] = facts.pop("status", None)
    facts = {name: str(value) if isinstance(value, str) else value for name, value in facts.items() if value != ""}
    if failed:
        facts["instance"] = f"urn:uuid:{instance}"
    detail = f"See the server's log for {instance}." if code in _HIDDEN or code == "internal" else _detail(error, code)
    return Refused(code, detail, _retry_after(error, failed=failed), **facts)


def _detail(error: GuestledgerError, code: str) -> str:
    if isinstance(error, ServiceError) and code == "service-unavailable":
        return str(ServiceError(error.service, error.cause))  # the rest may name hosts and users; it is in the log
    return error.reason if isinstance(error, InvalidRequest) and not error.field else str(error)


def _retry_after(error: GuestledgerError, *, failed: bool) -> dict[str, str]:
    if isinstance(error, RequestDenied):
        seconds = ceil((error.denied.until - datetime.now(UTC)).total_seconds())
        return {"retry-after": str(max(1, seconds))}
    return {"retry-after": "1"} if failed and KINDS[code_of(type(error))].status == 503 else {}
