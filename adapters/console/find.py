"""Find: from a complaint to the session. It is sent by POST, so that nothing personal is in a URL."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from guestledger.adapters.api.exchange import Response
from guestledger.adapters.api.handlers.fields import Text
from guestledger.adapters.api.route import Context, Params
from guestledger.adapters.console.pages import check_guest_search, page, see
from guestledger.adapters.forms import times
from guestledger.adapters.forms.find_words import between_words, distance_words, nothing_sentence
from guestledger.adapters.forms.messages import session_reason
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.session import Status
from guestledger.engine.ports.session_finder import FindFilter

ROWS = 20
STATUSES = tuple(status for status in Status if status is not Status.NEW)

Parsed = TypeVar("Parsed")


class FindForm(Guarded, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complaint says. All that is given must match."""

    around: Text | None = None
    within: Text | None = None
    session: Text | None = None
    channel: Text | None = None
    status: tuple[Status, ...] = ()
    correlation: Text | None = None
    subject: Personal | None = None
    ip: Personal | None = None
    fingerprint: Personal | None = None
    key: Personal | None = None

    @property
    def names_guest(self) -> bool:
        """Whether it holds personal data."""
        return any(value is not None for value in (self.subject, self.ip, self.fingerprint, self.key))


class Find(Params, frozen=True, kw_only=True):
    """See `find`."""

    body: FindForm


async def show_find(_asked: Params, context: Context) -> Response:
    """Show the form."""
    return _page(context, FindForm())


async def find(asked: Find, context: Context) -> Response:
    """Show the sessions that match."""
    form = asked.body
    if form.names_guest:
        check_guest_search(context)
    try:
        wanted = _wanted(form)
    except ValueError as error:
        return _page(context, form, status=422, error=str(error))
    findings = await context.ledger.find(wanted)
    found = findings.found[:ROWS]
    if len(found) == 1 and form == FindForm(session=form.session):
        return see(context, f"sessions/{found[0].session.id}")
    return _page(
        context,
        form,
        wanted=wanted,
        found=found,
        more=len(findings.found) > ROWS,
        earlier=findings.earlier,
        nothing=None if found else nothing_sentence(wanted, findings.earlier, within="time in Within"),
        between=None if wanted.around is None else between_words(wanted),
    )


def _wanted(form: FindForm) -> FindFilter:
    return FindFilter(
        around=_parsed(times.around, form.around),
        within=_parsed(times.span, form.within) or timedelta(minutes=10),
        guest=GuestFilter(subject_id=form.subject, ip_address=form.ip, fingerprint=form.fingerprint),
        session=form.session,
        idempotency_key=form.key,
        correlation_id=form.correlation,
        channel_id=form.channel,
        statuses=form.status,
        limit=ROWS + 1,
    )


def _parsed(parse: Callable[[str], Parsed], text: str | None) -> Parsed | None:
    return None if text is None else parse(text)


def _page(context: Context, form: FindForm, *, status: int = 200, **values: Any) -> Response:
    nothing_yet = {"wanted": None, "found": (), "more": False, "earlier": None, "nothing": None, "between": None}
    shared = {"form": form, "statuses": STATUSES, "reason": session_reason, "distance": _distance, "error": None}
    shared["now"] = datetime.now(UTC)
    return page(context, "find.html", status=status, **{**nothing_yet, **shared, **values})


def _distance(one: Any, moment: datetime | None) -> str:
    return "" if moment is None else distance_words(one, moment)
