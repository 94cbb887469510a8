"""Opening and reading sessions."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from guestledger.adapters.api.handlers.fields import Id, Moment, PersonalText, Text
from guestledger.adapters.api.handlers.paging import Cursor, Limit, after, page, page_size
from guestledger.adapters.api.route import (
    IDEMPOTENCY_KEY,
    OPERATOR,
    OPERATOR_OR_PRIVACY,
    REVEAL,
    Answer,
    Context,
    Params,
    Route,
)
from guestledger.adapters.forms.camel import camel, camel_type
from guestledger.adapters.forms.events import EventForm, event_form
from guestledger.adapters.forms.frames import FrameForm, frame_form
from guestledger.adapters.forms.opened import OpenedForm, opened_form
from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.personal import public
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.operations.explain import Explanation
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.replay.timeline import until


class OpenSession(Params, frozen=True, kw_only=True):
    """See `open_session`."""

    body: GuestRequest
    wait: bool = True
    """Go as far as possible at once; else only accept, and leave the rest to a worker."""
    token: bool = False
    """Answer with the guest's token, a secret."""


class SessionPath(Params, frozen=True, kw_only=True):
    """One session."""

    id: Id


class StateAt(SessionPath, frozen=True, kw_only=True):
    """One session at a version or a time."""

    at: Annotated[int, Meta(ge=1)] | Moment | None = None
    """The last version or time (UTC) that counts. Default: now."""


class ListSessions(Params, frozen=True, kw_only=True):
    """Which sessions."""

    channel_id: Text | None = None
    status: tuple[Status, ...] = ()
    in_doubt: bool = False
    held: bool = False
    since: Moment | None = None
    until: Moment | None = None
    limit: Limit | None = None
    cursor: Cursor | None = None


class FindSessions(ListSessions, frozen=True, kw_only=True):
    """Which sessions, by their guest too: personal data never goes into a URL."""

    subject_id: PersonalText | None = None
    ip_address: PersonalText | None = None
    fingerprint: PersonalText | None = None


class SearchSessions(Params, frozen=True, kw_only=True):
    """See `search_sessions`."""

    body: FindSessions


class SessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, newest first."""

    items: list[camel_type(SessionRow)]  # type: ignore[valid-type]
    next: str | None
    """The `cursor` of the next page; null: this is the last one."""


class HistoryForm(msgspec.Struct, frozen=True, kw_only=True):
    """All events of a session, in order."""

    id: UUID
    version: int
    events: list[EventForm]


async def open_session(asked: OpenSession, context: Context) -> Answer:
    """Open a session for a guest request.

    201: it is settled: active, refused, rejected or abandoned. 202: a worker continues at `retryAt`; or it is parked, and a
    person decides. `Idempotency-Key` is the request's `idempotencyKey`: the same key returns the same session.
    """
    guest, ledger = _with_key(asked.body, context.idempotency_key()), context.ledger
    session = await (ledger.open_session if asked.wait else ledger.accept)(guest)
    return Answer(
        body=opened_form(session, token=asked.token),
        status=201 if session.status.is_settled else 202,
        version=session.version,
        headers={"location": f"{context.request.base}/v1/sessions/{session.id}"},
    )


async def get_session(asked: SessionPath, context: Context) -> Answer:
    """Return a session as it is now."""
    reveal = context.reveal()
    session = await context.ledger.session(asked.id, reveal=reveal)
    return Answer(body=_shown(session, revealed=reveal is not None), version=session.version)


async def get_token(asked: SessionPath, context: Context) -> OpenedForm:
    """Return a session with its guest's token, to answer that guest. It is no look at personal data, and not recorded."""
    return opened_form(await context.ledger.session(asked.id, token=True), token=True)


async def get_history(asked: SessionPath, context: Context) -> Answer:
    """Return every event of a session."""
    reveal = context.reveal()
    history = await context.ledger.history(asked.id, reveal=reveal)
    last = history[-1]
    events = [event_form(recorded, revealed=reveal is not None) for recorded in history]
    return Answer(body=HistoryForm(id=last.stream_id, version=last.version, events=events), version=last.version)


async def get_state(asked: StateAt, context: Context) -> Answer:
    """Return a session after a version or at a time: its state, what was due, and the latest event with its decision."""
    reveal = context.reveal()
    frames = await context.ledger.replay.timeline(asked.id, reveal=reveal)
    wanted = frames if asked.at is None else until(frames, asked.at)
    if not wanted:
        raise InvalidRequest("at", "is before the session's first event")
    frame = wanted[-1]
    return Answer(body=frame_form(frame, revealed=reveal is not None), version=frame.recorded.version)


async def explain(asked: SessionPath, context: Context) -> Any:
    """Return what a session waits for, and until when."""
    return camel(await context.ledger.why(asked.id))


async def list_sessions(asked: ListSessions, context: Context) -> SessionPage:
    """List sessions, newest first. `since` and `until` are about when they were opened."""
    return await _listed(asked, GuestFilter(), context)


async def search_sessions(asked: SearchSessions, context: Context) -> SessionPage:
    """List sessions as GET does, also by their guest."""
    return await _listed(asked.body, guest_filter(asked.body), context)


def guest_filter(asked: Any) -> GuestFilter:
    """Return which guest is wanted. Raises `InvalidRequest`."""
    try:
        return GuestFilter(subject_id=asked.subject_id, ip_address=asked.ip_address, fingerprint=asked.fingerprint)
    except ValueError as error:
        raise InvalidRequest("ipAddress", str(error)) from None


async def _listed(asked: ListSessions, guest: GuestFilter, context: Context) -> SessionPage:
    size = page_size(asked.limit)
    wanted = SessionFilter(
        channel_id=asked.channel_id,
        statuses=asked.status,
        in_doubt=asked.in_doubt,
        held=asked.held,
        since=asked.since,
        until=asked.until,
        guest=guest,
        after=after(asked.cursor),
        newest_first=True,
        limit=size + 1,
    )
    rows, next_ = await page(context.ledger.sessions(wanted), size)
    return SessionPage(items=[camel(row) for row in rows], next=next_)


def _with_key(guest: GuestRequest, key: str | None) -> GuestRequest:
    if key is None:
        return guest
    if guest.idempotency_key not in (None, key):
        raise InvalidRequest("Idempotency-Key", "differs from the idempotencyKey in the body: send one of them")
    return replace(guest, idempotency_key=key)


def _shown(session: Session, *, revealed: bool) -> Any:
    return camel(msgspec.convert(public(session, revealed=revealed), Session))


_NOT_FOUND = ("session-not-found", "session-id-shared", "partition-detached")

ROUTES = (
    Route(
        method="POST",
        path="/v1/sessions",
        handler=open_session,
        request=OpenSession,
        answer=OpenedForm,
        roles=OPERATOR,
        statuses=(201, 202),
        headers=(IDEMPOTENCY_KEY,),
        problems=("idempotency-conflict", "partition-detached", "event-too-large", "subject-erased"),
    ),
    Route(method="GET", path="/v1/sessions", handler=list_sessions, request=ListSessions, answer=SessionPage),
    Route(
        method="POST",
        path="/v1/sessions/search",
        handler=search_sessions,
        request=SearchSessions,
        answer=SessionPage,
        roles=OPERATOR_OR_PRIVACY,
    ),
    Route(
        method="GET",
        path="/v1/sessions/{id}",
        handler=get_session,
        request=SessionPath,
        answer=camel_type(Session),
        headers=(REVEAL,),
        versioned=True,
        problems=_NOT_FOUND,
    ),
    Route(
        method="POST",
        path="/v1/sessions/{id}/token",
        handler=get_token,
        request=SessionPath,
        answer=OpenedForm,
        roles=OPERATOR,
        problems=_NOT_FOUND,
    ),
    Route(
        method="GET",
        path="/v1/sessions/{id}/history",
        handler=get_history,
        request=SessionPath,
        answer=HistoryForm,
        headers=(REVEAL,),
        versioned=True,
        problems=_NOT_FOUND,
    ),
    Route(
        method="GET",
        path="/v1/sessions/{id}/state",
        handler=get_state,
        request=StateAt,
        answer=FrameForm,
        headers=(REVEAL,),
        versioned=True,
        problems=_NOT_FOUND,
    ),
    Route(
        method="GET",
        path="/v1/sessions/{id}/why",
        handler=explain,
        request=SessionPath,
        answer=camel_type(Explanation),
        problems=_NOT_FOUND,
    ),
)
