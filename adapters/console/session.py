"""The page of one session: what happened, its state at each version, and why it waits."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any

from msgspec import Meta

from guestledger.adapters.api.exchange import Response
from guestledger.adapters.api.handlers.sessions import SessionPath
from guestledger.adapters.api.route import Context
from guestledger.adapters.console.calls import attempts, deliveries
from guestledger.adapters.console.pages import page
from guestledger.adapters.forms.condition_lines import ENDS, SENTENCES
from guestledger.adapters.forms.consent_lines import consent_lines
from guestledger.adapters.forms.messages import STEPS, session_reason
from guestledger.adapters.forms.values import span
from guestledger.adapters.pages.timeline import axes, rows, shares, whole_event
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.operations.consent_record import consent_record
from guestledger.engine.operations.explain import Explanation
from guestledger.engine.operations.reveal import Reveal
from guestledger.engine.replay.bundle import write_bundle
from guestledger.engine.replay.timeline import Frame

Version = Annotated[int, Meta(ge=1, le=2**31)]


class ShowSession(SessionPath, frozen=True, kw_only=True):
    """A session, and the version that is shown beside its timeline; by default the last."""

    at: Version | None = None


async def show_session(asked: ShowSession, context: Context) -> Response:
    """Show a session."""
    return await session_page(context, asked.id, asked.at)


async def session_page(context: Context, id_: str, at: int | None, reveal: Reveal | None = None) -> Response:
    """Return the page of a session. With `reveal`, personal data is in clear, and the look is recorded before."""
    frames = await context.ledger.replay.timeline(id_, reveal=reveal)
    last = frames[-1].state
    consent = consent_record([frame.recorded for frame in frames])
    return page(
        context,
        "session.html",
        day=frames[0].recorded.recorded_at.date(),
        session=last,
        reason=session_reason(last),
        opening=frames[0].recorded,
        latest=frames[-1].recorded,
        total=span(frames[-1].recorded.recorded_at - frames[0].recorded.recorded_at),
        axes=axes(frames),
        shares=shares(frames),
        events=rows(frames),
        chosen=whole_event(frames[min(at or len(frames), len(frames)) - 1], revealed=reveal is not None),
        why=await _why(context, last),
        sentences=SENTENCES,
        ends=ENDS,
        steps=STEPS,
        attempts=attempts(frames),
        deliveries=deliveries(frames),
        consent=consent,
        consent_lines=list(consent_lines(consent)),
        can_redeliver=_can_redeliver(last),
        revealed=reveal is not None,
        **_decisions(frames),
    )


async def download_bundle(asked: SessionPath, context: Context) -> Response:
    """Return the bundle of a session, without personal data: `guestledger replay` reads it without a database."""
    ledger, history = context.ledger, await context.ledger.history(asked.id)
    body = write_bundle(
        [history],
        policies=await ledger.replay.policies(),
        release=version("guestledger"),
        ledger=await ledger.events.ledger_id(),
        written_at=datetime.now(UTC),
    )
    name = f"{history[0].stream_id}.bundle.jsonl"
    headers = {"content-type": "application/x-ndjson", "content-disposition": f'attachment; filename="{name}"'}
    return Response(headers=headers, body=body)


async def _why(context: Context, session: Session) -> Explanation | None:
    """Why it waits; `None`: the server's database user may not see due work."""
    try:
        return await context.ledger.why(session.id)
    except ServiceError as error:
        if error.cause is not Cause.FORBIDDEN:
            raise
        return None


def _can_redeliver(session: Session) -> bool:
    return session.session_id is not None and not session.webhook_owed and session.contact_erased_at is None


def _decisions(frames: list[Frame]) -> dict[str, Any]:
    return {
        "is_parked": frames[-1].state.status is Status.PARKED,
        "not_reproduced": [frame.recorded.version for frame in frames if not frame.decision.is_reproduced],
    }
