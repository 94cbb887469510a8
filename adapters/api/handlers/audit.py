"""The audit log: pages, searches and downloads."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec.structs import replace

from guestledger.adapters.api.exchange import CSV, JSON, JSON_LINES, Parts, Response
from guestledger.adapters.api.handlers.fields import Id, Moment, PersonalText, Text
from guestledger.adapters.api.handlers.paging import Cursor, Limit, after, page, page_size
from guestledger.adapters.api.handlers.sessions import guest_filter
from guestledger.adapters.api.route import OPERATOR_OR_PRIVACY, REVEAL, Context, Params, Route
from guestledger.adapters.forms.csv_rows import csv_line, csv_row
from guestledger.adapters.forms.json_lines import json_line
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.ledger import Ledger
from guestledger.engine.operations.reveal import Reveal
from guestledger.engine.projections.audit import (
    CONTRACT_FIELDS,
    AuditFilter,
    ComplianceStatus,
    WebhookState,
    contract_form,
)

_LINES_AT_ONCE = 500
_JSON_LINES, _CSV = f"{JSON_LINES}; charset=utf-8", f"{CSV}; charset=utf-8; header=present"


class AuditChoice(Params, frozen=True, kw_only=True):
    """Which entries, but for channel, times and guest."""

    status: ComplianceStatus | None = None
    session: Id | None = None
    consented: bool = False
    """Only those whose consent was sufficient."""
    notice: Text | None = None
    refused_flag: Text | None = None
    webhook: tuple[WebhookState, ...] = ()
    in_doubt: bool = False
    parked: bool = False
    decided_by: Text | None = None
    cursor: Cursor | None = None

    def chosen(self, **more: Any) -> AuditFilter:
        """The filter, newest first, with these fields too. The session is not in it: its id may be the provider's."""
        return AuditFilter(
            status=self.status,
            consent_recorded=self.consented or None,
            notice=self.notice,
            refused_flag=self.refused_flag,
            webhook=self.webhook,
            doubted=self.in_doubt,
            parked=self.parked,
            decided_by=self.decided_by,
            after=after(self.cursor),
            newest_first=True,
            **more,
        )


class ListAudit(AuditChoice, frozen=True, kw_only=True):
    """Which entries."""

    channel_id: Text | None = None
    opened_since: Moment | None = None
    opened_until: Moment | None = None
    since: Moment | None = None
    """By when the outcome was recorded."""
    until: Moment | None = None
    limit: Limit | None = None


class FindAudit(ListAudit, frozen=True, kw_only=True):
    """Which entries, by their guest too: personal data never goes into a URL."""

    subject_id: PersonalText | None = None
    ip_address: PersonalText | None = None
    fingerprint: PersonalText | None = None


class SearchAudit(Params, frozen=True, kw_only=True):
    """See `search_audit`."""

    body: FindAudit


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Audit entries in the contract's form, newest request first."""

    items: list[dict[str, Any]]
    next: str | None
    """The `cursor` of the next page; null: this is the last one."""


async def list_audit(asked: ListAudit, context: Context) -> AuditPage | Response:
    """Return the audit log: a page as JSON, or all of it as JSON lines or CSV."""
    return await _answered(asked, GuestFilter(), context)


async def search_audit(asked: SearchAudit, context: Context) -> AuditPage | Response:
    """Return the audit log as GET does, also by guest."""
    return await _answered(asked.body, guest_filter(asked.body), context)


async def _answered(asked: ListAudit, guest: GuestFilter, context: Context) -> AuditPage | Response:
    reveal = context.reveal()
    wanted = asked.chosen(
        channel_id=asked.channel_id,
        opened_since=asked.opened_since,
        opened_until=asked.opened_until,
        since=asked.since,
        until=asked.until,
        session=asked.session,
        guest=guest,
        limit=asked.limit,
    )
    if context.media == JSON:
        return await _page(asked, wanted, reveal, context)
    return download(wanted, reveal, context.ledger, context.media)


async def _page(asked: ListAudit, wanted: AuditFilter, reveal: Reveal | None, context: Context) -> AuditPage:
    size = page_size(asked.limit)
    found, next_ = await page(context.ledger.audit(replace(wanted, limit=size + 1)), size)
    if reveal is not None:  # of what is shown, and no more
        found = await context.ledger.look(reveal).entries(found)
    return AuditPage(items=[contract_form(entry) for entry in found], next=next_)


def download(wanted: AuditFilter, reveal: Reveal | None, ledger: Ledger, media: str) -> Response:
    """Return the entries as CSV or JSON lines: what `guestledger audit` prints."""
    kind, name = (_CSV, "audit.csv") if media == CSV else (_JSON_LINES, "audit.jsonl")
    lines = _lines(wanted, reveal, ledger, csv=media == CSV)
    headers = {
        "content-type": kind,
        "content-disposition": f'attachment; filename="{name}"',
        "vary": "Accept, Authorization",
    }
    return Response(headers=headers, body=_parts(lines))


async def _lines(wanted: AuditFilter, reveal: Reveal | None, ledger: Ledger, *, csv: bool) -> AsyncIterator[bytes]:
    if csv:
        yield csv_line(CONTRACT_FIELDS).encode()
    async for entry in ledger.audit(wanted, reveal=reveal):
        form = contract_form(entry)
        yield csv_row(CONTRACT_FIELDS, form).encode() if csv else json_line(form)


async def _parts(lines: AsyncIterator[bytes]) -> Parts:
    """The lines, some at a time. The first part has one at least: what fails at once is said before it."""
    part: list[bytes] = []
    async for line in lines:
        part.append(line)
        if len(part) == _LINES_AT_ONCE:
            yield b"".join(part)
            part = []
    if part:
        yield b"".join(part)


_PRODUCED = (JSON, JSON_LINES, CSV)

ROUTES = (
    Route(
        method="GET",
        path="/v1/audit",
        handler=list_audit,
        request=ListAudit,
        answer=AuditPage,
        produces=_PRODUCED,
        headers=(REVEAL,),
    ),
    Route(
        method="POST",
        path="/v1/audit/search",
        handler=search_audit,
        request=SearchAudit,
        answer=AuditPage,
        roles=OPERATOR_OR_PRIVACY,
        produces=_PRODUCED,
        headers=(REVEAL,),
    ),
)
