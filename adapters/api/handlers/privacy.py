"""Personal data: export, erasure and legal holds. A person's id is in the body, never in a URL."""

from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from guestledger.adapters.api.handlers.fields import Reason
from guestledger.adapters.api.handlers.sessions import SessionPath
from guestledger.adapters.api.route import PRIVACY, Context, Params, Route
from guestledger.adapters.forms.camel import camel, camel_type
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.request import SHOWABLE
from guestledger.engine.operations.erase import ErasureCertificate
from guestledger.engine.operations.export import PersonExport
from guestledger.engine.operations.retention import HoldReport


class Why(Guarded, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Why it is done."""

    reason: Reason


class Person(Why, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Who it is about, by the `subjectId` of their requests, and why it is done."""

    subject_id: Annotated[Personal, Meta(min_length=1, max_length=128, pattern=SHOWABLE)]


class OneSession(SessionPath, frozen=True, kw_only=True):
    """One session, and why."""

    body: Why


class OnePerson(Params, frozen=True, kw_only=True):
    """All sessions of a person, and why."""

    body: Person


class ErasurePath(Params, frozen=True, kw_only=True):
    """One erasure."""

    id: UUID


async def export_session(asked: OneSession, context: Context) -> PersonExport:
    """Return everything held in one session, in clear. The look is recorded first."""
    return await context.ledger.export(session=asked.id, reason=asked.body.reason, by=context.caller.name)


async def export_person(asked: OnePerson, context: Context) -> PersonExport:
    """Return everything held on a person, in clear. The look is recorded first."""
    return await context.ledger.export(
        subject_id=asked.body.subject_id, reason=asked.body.reason, by=context.caller.name
    )


async def erase_session(asked: OneSession, context: Context) -> Any:
    """Erase the personal data of one session for good. Repeated, it returns the same certificate."""
    return camel(
        await context.ledger.erase(session=asked.id, reason=asked.body.reason, requested_by=context.caller.name)
    )


async def erase_person(asked: OnePerson, context: Context) -> Any:
    """Erase a person's data for good. Repeated, it returns the same certificate."""
    found = await context.ledger.erase(
        subject_id=asked.body.subject_id, reason=asked.body.reason, requested_by=context.caller.name
    )
    return camel(found)


async def get_certificate(asked: ErasurePath, context: Context) -> Any:
    """Return the certificate of a completed erasure."""
    return camel(await context.ledger.erasures.certificate(asked.id))


async def hold_session(asked: OneSession, context: Context) -> Any:
    """Keep the contact data of one session, whatever the retention says."""
    return camel(
        await context.ledger.retention.hold(session=asked.id, reason=asked.body.reason, placed_by=context.caller.name)
    )


async def hold_person(asked: OnePerson, context: Context) -> Any:
    """Keep a person's contact data, whatever the retention says."""
    found = await context.ledger.retention.hold(
        subject_id=asked.body.subject_id, reason=asked.body.reason, placed_by=context.caller.name
    )
    return camel(found)


async def release_session(asked: OneSession, context: Context) -> Any:
    """End the legal hold on one session."""
    found = await context.ledger.retention.release(
        session=asked.id, reason=asked.body.reason, released_by=context.caller.name
    )
    return camel(found)


async def release_person(asked: OnePerson, context: Context) -> Any:
    """End the legal hold on a person."""
    found = await context.ledger.retention.release(
        subject_id=asked.body.subject_id, reason=asked.body.reason, released_by=context.caller.name
    )
    return camel(found)


def _of_session(action: str, handler: Any, answer: Any, *problems: str) -> Route:
    return Route(
        method="POST",
        path=f"/v1/sessions/{{id}}/{action}",
        handler=handler,
        request=OneSession,
        answer=answer,
        roles=PRIVACY,
        problems=("session-not-found", "session-id-shared", "partition-detached", *problems),
    )


def _of_person(path: str, handler: Any, answer: Any, *problems: str) -> Route:
    return Route(
        method="POST", path=path, handler=handler, request=OnePerson, answer=answer, roles=PRIVACY, problems=problems
    )


_CERTIFICATE, _REPORT = camel_type(ErasureCertificate), camel_type(HoldReport)

ROUTES = (
    _of_session("export", export_session, PersonExport),
    _of_session("erase", erase_session, _CERTIFICATE, "under-legal-hold"),
    _of_session("hold", hold_session, _REPORT, "hold-refused"),
    _of_session("release", release_session, _REPORT, "hold-refused"),
    _of_person("/v1/exports", export_person, PersonExport, "nothing-held"),
    _of_person("/v1/erasures", erase_person, _CERTIFICATE, "nothing-held", "under-legal-hold"),
    _of_person("/v1/holds", hold_person, _REPORT, "hold-refused"),
    _of_person("/v1/holds/release", release_person, _REPORT, "hold-refused"),
    Route(
        method="GET",
        path="/v1/erasures/{id}",
        handler=get_certificate,
        request=ErasurePath,
        answer=_CERTIFICATE,
        problems=("erasure-not-found",),
    ),
)
