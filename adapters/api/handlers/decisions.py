"""What people decide about one session: resolve, redeliver, withdraw."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from guestledger.adapters.api.handlers.fields import Moment, Reason, Text
from guestledger.adapters.api.handlers.sessions import SessionPath
from guestledger.adapters.api.route import IF_MATCH, OPERATOR, OPERATOR_OR_PRIVACY, Answer, Context, Params, Route
from guestledger.engine.domain.outcomes import Adoption, Resolution, Verdict
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.operations.consents import Withdrawal


class _Decision(Guarded, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    reason: Reason


class Retry(_Decision, frozen=True, kw_only=True, tag_field="decision", tag="retry"):
    """Attempt it again."""


class Abandon(_Decision, frozen=True, kw_only=True, tag_field="decision", tag="abandon"):
    """Give it up."""


class Adopt(_Decision, frozen=True, kw_only=True, tag_field="decision", tag="adopt"):
    """Use the session that was found at the provider."""

    session_id: Text
    """The provider's id."""
    expires_at: Moment
    """When its token expires (UTC)."""
    token: Annotated[Personal, Meta(max_length=16_384)] | None = None
    """The guest's token. Without it no guest can use the session."""


class Resolve(SessionPath, frozen=True, kw_only=True):
    """See `resolve`."""

    body: Retry | Abandon | Adopt


class Redeliver(SessionPath, frozen=True, kw_only=True):
    """See `redeliver`."""

    body: _Decision


class WithdrawalRequest(Guarded, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What is withdrawn, and why."""

    reason: Reason | None = None
    marketing_only: bool = False


class PersonWithdrawalRequest(WithdrawalRequest, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Whose consent is withdrawn, and why."""

    subject_id: Annotated[Personal, Meta(min_length=1, max_length=128)]


class Withdraw(SessionPath, frozen=True, kw_only=True):
    """See `withdraw`."""

    body: WithdrawalRequest


class WithdrawAll(Params, frozen=True, kw_only=True):
    """See `withdraw_all`."""

    body: PersonWithdrawalRequest


class DecidedForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session after a decision."""

    id: UUID
    session_id: str | None
    status: Status
    version: int


class DueNoticeForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session whose notice is sent again, and when (UTC)."""

    id: UUID
    session_id: str | None
    due_at: datetime | None


class WithdrawalForm(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a withdrawal. `recorded` is false if there was no such consent, or it was withdrawn before."""

    id: UUID
    status: Status
    recorded: bool


class WithdrawalsForm(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the withdrawals, oldest session first."""

    items: list[WithdrawalForm]


async def resolve(asked: Resolve, context: Context) -> Answer:
    """Decide about a parked session. Repeated, it is refused: the session is no longer parked."""
    found = await context.ledger.resolve(
        asked.id,
        _resolution(asked.body),
        decided_by=context.caller.name,
        reason=asked.body.reason,
        expected_version=context.expected_version(),
    )
    form = DecidedForm(id=found.id, session_id=found.session_id, status=found.status, version=found.version)
    return Answer(body=form, version=found.version)


async def redeliver(asked: Redeliver, context: Context) -> Answer:
    """Send a session's notice again, with the id that it had. Repeated, it is refused until a worker has sent it."""
    found = await context.ledger.webhooks.redeliver(
        asked.id,
        requested_by=context.caller.name,
        reason=asked.body.reason,
        expected_version=context.expected_version(),
    )
    form = DueNoticeForm(id=found.id, session_id=found.session_id, due_at=found.webhook_retry_at)
    return Answer(body=form, version=found.version)


async def withdraw(asked: Withdraw, context: Context) -> WithdrawalForm:
    """Withdraw a guest's consent, and end the session. Repeated, it records nothing."""
    found = await context.ledger.withdraw(
        asked.id,
        requested_by=context.caller.name,
        reason=asked.body.reason,
        marketing_only=asked.body.marketing_only,
    )
    return _form(found)


async def withdraw_all(asked: WithdrawAll, context: Context) -> WithdrawalsForm:
    """Withdraw a person's consent in each of their sessions. Repeated, it records nothing."""
    found = context.ledger.consents.withdraw_all(
        asked.body.subject_id,
        requested_by=context.caller.name,
        reason=asked.body.reason,
        marketing_only=asked.body.marketing_only,
    )
    return WithdrawalsForm(items=[_form(one) async for one in found])


def _form(found: Withdrawal) -> WithdrawalForm:
    session: Session = found.session
    return WithdrawalForm(id=session.id, status=session.status, recorded=found.recorded)


def _resolution(body: Retry | Abandon | Adopt) -> Resolution:
    match body:
        case Retry():
            return Verdict.RETRY
        case Abandon():
            return Verdict.ABANDON
        case Adopt():
            return Adoption(session_id=body.session_id, expires_at=body.expires_at, guest_token=body.token)


_SESSION = ("session-not-found", "session-id-shared", "partition-detached")

ROUTES = (
    Route(
        method="POST",
        path="/v1/sessions/{id}/resolve",
        handler=resolve,
        request=Resolve,
        answer=DecidedForm,
        roles=OPERATOR,
        headers=(IF_MATCH,),
        problems=(*_SESSION, "resolution-refused", "version-conflict"),
    ),
    Route(
        method="POST",
        path="/v1/sessions/{id}/redeliver",
        handler=redeliver,
        request=Redeliver,
        answer=DueNoticeForm,
        roles=OPERATOR,
        headers=(IF_MATCH,),
        problems=(*_SESSION, "redelivery-refused", "version-conflict"),
    ),
    Route(
        method="POST",
        path="/v1/sessions/{id}/withdraw",
        handler=withdraw,
        request=Withdraw,
        answer=WithdrawalForm,
        roles=OPERATOR_OR_PRIVACY,
        problems=_SESSION,
    ),
    Route(
        method="POST",
        path="/v1/withdrawals",
        handler=withdraw_all,
        request=WithdrawAll,
        answer=WithdrawalsForm,
        roles=OPERATOR_OR_PRIVACY,
        problems=("partition-detached",),
    ),
)
