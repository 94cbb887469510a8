"""Finding the session that a complaint is about."""

from datetime import timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from guestledger.adapters.api.handlers.fields import Moment, PersonalText, Text
from guestledger.adapters.api.handlers.sessions import guest_filter
from guestledger.adapters.api.route import OPERATOR_OR_PRIVACY, Context, Params, Route
from guestledger.adapters.forms.finding import FoundForm, found_form
from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.session import Status
from guestledger.engine.ports.session_finder import FindFilter

_WEEK_MS = 7 * 24 * 3_600_000


class Complaint(Params, frozen=True, kw_only=True):
    """What is known. It needs a time, a guest, a session or an idempotency key."""

    around: Moment | None = None
    """Something was recorded around this time."""
    within_ms: Annotated[int, Meta(ge=1, le=_WEEK_MS)] = 600_000
    """How far from `around`."""
    session: Text | None = None
    """The engine's id or the provider's."""
    idempotency_key: PersonalText | None = None
    correlation_id: Text | None = None
    """Needs `around`."""
    channel_id: Text | None = None
    status: tuple[Status, ...] = ()
    """Any of these now."""
    subject_id: PersonalText | None = None
    ip_address: PersonalText | None = None
    fingerprint: PersonalText | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 20


class Find(Params, frozen=True, kw_only=True):
    """See `find`."""

    body: Complaint


class FindingsForm(msgspec.Struct, frozen=True, kw_only=True):
    """The sessions that match, nearest to the time first; without a time, newest first."""

    items: list[FoundForm]
    earlier: FoundForm | None
    """If there is none: the nearest one before the time, if it is cheap to find."""


async def find(asked: Find, context: Context) -> FindingsForm:
    """Find the session that a complaint is about, without personal data. What is known is in the body, never in the URL."""
    found = await context.ledger.find(_filter(asked.body))
    around = asked.body.around
    return FindingsForm(
        items=[found_form(one, around) for one in found.found],
        earlier=None if found.earlier is None else found_form(found.earlier, around),
    )


def _filter(asked: Complaint) -> FindFilter:
    try:
        return FindFilter(
            around=asked.around,
            within=timedelta(milliseconds=asked.within_ms),
            guest=guest_filter(asked),
            session=asked.session,
            idempotency_key=asked.idempotency_key,
            correlation_id=asked.correlation_id,
            channel_id=asked.channel_id,
            statuses=asked.status,
            limit=asked.limit,
        )
    except ValueError as error:
        raise InvalidRequest("around", str(error)) from None


ROUTES = (
    Route(
        method="POST",
        path="/v1/sessions/find",
        handler=find,
        request=Find,
        answer=FindingsForm,
        roles=OPERATOR_OR_PRIVACY,
    ),
)
