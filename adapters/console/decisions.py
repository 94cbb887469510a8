"""What people do in the console: decide about a session, have its notice sent again, look at personal data."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from guestledger.adapters.api.exchange import Response
from guestledger.adapters.api.handlers.fields import Reason, Text
from guestledger.adapters.api.handlers.sessions import SessionPath
from guestledger.adapters.api.route import Context
from guestledger.adapters.console.pages import see
from guestledger.adapters.console.session import Version, session_page
from guestledger.adapters.forms import times
from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.outcomes import Adoption, Resolution, Verdict
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.operations.reveal import Reveal


class ResolveForm(Guarded, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A decision about a parked session. The last three belong to `adopt`."""

    decision: Literal["retry", "abandon", "adopt"]
    reason: Reason
    version: Version
    """Of the session that the person saw."""
    session_id: Text | None = None
    expires_at: Text | None = None
    token: Annotated[Personal, Meta(max_length=16_384)] | None = None


class RedeliverForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a notice is sent again."""

    reason: Reason
    version: Version


class RevealForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why personal data is shown, beside which version."""

    reason: Reason
    at: Version | None = None


class Resolve(SessionPath, frozen=True, kw_only=True):
    """See `resolve`."""

    body: ResolveForm


class Redeliver(SessionPath, frozen=True, kw_only=True):
    """See `redeliver`."""

    body: RedeliverForm


class RevealSession(SessionPath, frozen=True, kw_only=True):
    """See `reveal`."""

    body: RevealForm


async def resolve(asked: Resolve, context: Context) -> Response:
    """Decide about a parked session."""
    form = asked.body
    found = await context.ledger.resolve(
        asked.id,
        _resolution(form),
        decided_by=context.caller.name,
        reason=form.reason,
        expected_version=form.version,
    )
    return see(context, f"sessions/{found.id}")


async def redeliver(asked: Redeliver, context: Context) -> Response:
    """Have the notice of a session sent again."""
    found = await context.ledger.webhooks.redeliver(
        asked.id,
        requested_by=context.caller.name,
        reason=asked.body.reason,
        expected_version=asked.body.version,
    )
    return see(context, f"sessions/{found.id}")


async def reveal(asked: RevealSession, context: Context) -> Response:
    """Show a session with its personal data in clear, on this answer only. The look is recorded first."""
    look = Reveal(reason=asked.body.reason, by=context.caller.name)
    return await session_page(context, asked.id, asked.body.at, look)


def _resolution(form: ResolveForm) -> Resolution:
    if form.decision != "adopt":
        return Verdict(form.decision)
    if form.session_id is None or form.expires_at is None:
        raise InvalidRequest("sessionId", "is needed to adopt a session, and so is expiresAt")
    try:
        expires_at = times.moment(form.expires_at)
    except ValueError as error:
        raise InvalidRequest("expiresAt", str(error)) from None
    return Adoption(session_id=form.session_id, expires_at=expires_at, guest_token=form.token)
