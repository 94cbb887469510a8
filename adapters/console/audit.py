"""The audit log: filters, pages, downloads."""

from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from guestledger.adapters.api.exchange import CSV, JSON_LINES, Response
from guestledger.adapters.api.handlers.audit import AuditChoice, download
from guestledger.adapters.api.handlers.fields import Id, Text
from guestledger.adapters.api.handlers.paging import page
from guestledger.adapters.api.route import Context, Params
from guestledger.adapters.console import pages
from guestledger.adapters.forms import times
from guestledger.adapters.forms.messages import decision_words
from guestledger.adapters.forms.values import time
from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.personal import Personal
from guestledger.engine.projections.audit import AuditEntry, AuditFilter, ComplianceStatus, WebhookState

ROWS = 50


class AuditForm(AuditChoice, frozen=True, kw_only=True):
    """Which entries. Times are as a person writes them."""

    channel: Text | None = None
    opened_since: Text | None = None
    opened_until: Text | None = None
    since: Text | None = None
    """By when the outcome was recorded."""
    until: Text | None = None
    subject: Personal | None = None
    ip: Personal | None = None
    fingerprint: Personal | None = None
    format: Literal["csv", "json"] | None = None
    """Download all of it."""

    @property
    def guest(self) -> GuestFilter:
        """Which guest. Raises `InvalidRequest`."""
        try:
            return GuestFilter(subject_id=self.subject, ip_address=self.ip, fingerprint=self.fingerprint)
        except ValueError as error:
            raise InvalidRequest("ip", str(error)) from None


class ShowAudit(Params, frozen=True, kw_only=True):
    """See `show_audit`: without a guest, since this is a URL."""

    channel: Text | None = None
    status: ComplianceStatus | None = None
    session: Id | None = None
    webhook: tuple[WebhookState, ...] = ()
    parked: bool = False
    in_doubt: bool = False


class SearchAudit(Params, frozen=True, kw_only=True):
    """See `search_audit`."""

    body: AuditForm


async def show_audit(asked: ShowAudit, context: Context) -> Response:
    """Show the newest entries."""
    return await _answer(AuditForm(**msgspec.structs.asdict(asked)), context)


async def search_audit(asked: SearchAudit, context: Context) -> Response:
    """Show a page of the entries that match, or download all of them."""
    return await _answer(asked.body, context)


async def _answer(form: AuditForm, context: Context) -> Response:
    if form.guest:
        pages.check_guest_search(context)
    wanted = _wanted(form)
    if form.format is not None:
        return download(wanted, None, context.ledger, CSV if form.format == "csv" else JSON_LINES)
    entries, next_ = await page(context.ledger.audit(replace(wanted, limit=ROWS + 1)), ROWS)
    return pages.page(
        context,
        "audit.html",
        form=form,
        filters=_filters(form),
        entries=entries,
        next=next_,
        remarks=_remarks,
        states=tuple(WebhookState),
        compliance=tuple(ComplianceStatus),
    )


def _wanted(form: AuditForm) -> AuditFilter:
    return form.chosen(
        channel_id=form.channel,
        opened_since=_moment(form, "opened_since"),
        opened_until=_moment(form, "opened_until"),
        since=_moment(form, "since"),
        until=_moment(form, "until"),
        session=form.session,
        guest=form.guest,
    )


def _moment(form: AuditForm, field: str) -> Any:
    text = getattr(form, field)
    try:
        return None if text is None else times.moment(text)
    except ValueError as error:
        raise InvalidRequest(field.replace("_", " "), str(error)) from None


def _filters(form: AuditForm) -> list[tuple[str, str]]:
    """What is set, as the fields of a form, for the next page."""
    found: list[tuple[str, str]] = []
    for name, shown in zip(form.__struct_fields__, form.__struct_encode_fields__, strict=True):
        value = getattr(form, name)
        if name in ("cursor", "format") or value in (None, False, ()):
            continue
        found += [(shown, str(each)) for each in value] if isinstance(value, tuple) else [(shown, _text(value))]
    return found


def _text(value: Any) -> str:
    return "true" if value is True else str(value)


def _remarks(entry: AuditEntry) -> list[str]:
    latency = entry.initialization_latency_ms
    opened = None if latency is None else f"opened in {latency} ms"
    erased = None if entry.erased_at is None else f"erased {time(entry.erased_at)}"
    return [remark for remark in (decision_words(entry), opened, erased) if remark]
