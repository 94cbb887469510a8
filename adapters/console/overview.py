"""The overview: what happens now, and what needs a person."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from guestledger.adapters.api.exchange import Response
from guestledger.adapters.api.route import Context, Params
from guestledger.adapters.console.chart import HEIGHT, Span, chart
from guestledger.adapters.console.pages import page
from guestledger.adapters.forms.limiter_words import limiter_facts
from guestledger.adapters.forms.messages import denied_sentence, session_reason
from guestledger.adapters.forms.values import time
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.projections.audit import AuditFilter, WebhookState
from guestledger.engine.projections.metrics import MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow

ROWS = 5
"""Shown of each kind."""
LONG_DOUBT = timedelta(minutes=10)


class ShowOverview(Params, frozen=True, kw_only=True):
    """Which time the chart shows."""

    span: Span = Span.DAY


class Rows(NamedTuple):
    """The first rows of a kind, and whether there are more."""

    shown: list[Any]
    more: bool


async def show_overview(asked: ShowOverview, context: Context) -> Response:
    """Show outcomes, latency, limiters, projections, and what needs a person."""
    ledger, now = context.ledger, datetime.now(UTC)
    wanted = MetricsFilter(since=asked.span.since(now))
    return page(
        context,
        "overview.html",
        span=asked.span,
        height=HEIGHT,
        chart=chart(await ledger.projections.outcomes_by_hour(wanted), asked.span, now),
        now=now,
        metrics=await ledger.metrics(wanted),
        health=await ledger.health(),
        limiters=await _limiters(ledger, now),
        projections=await ledger.projections.status(),
        long_doubt=LONG_DOUBT,
        reason=session_reason,
        **await _needed(ledger, now),
    )


async def _needed(ledger: Ledger, now: datetime) -> dict[str, Any]:
    """What needs a person, however old, and what ended without a session lately. Each kind is found by an index."""
    parked = SessionFilter(statuses=(Status.PARKED,), in_doubt=True, limit=ROWS + 1)  # whatever is parked is in doubt
    doubted = SessionFilter(in_doubt=True, until=now - LONG_DOUBT, limit=10 * ROWS)
    ended = SessionFilter(
        statuses=(Status.REJECTED, Status.ABANDONED), since=now - timedelta(days=1), newest_first=True, limit=ROWS + 1
    )
    letters = AuditFilter(webhook=(WebhookState.FAILED,), newest_first=True, limit=ROWS + 1)
    return {
        "parked": await _rows(ledger.sessions(parked)),
        "letters": await _rows(ledger.audit(letters)),
        "doubted": await _rows(_unparked(ledger.sessions(doubted))),
        "ended": await _rows(ledger.sessions(ended)),
    }


async def _unparked(rows: AsyncIterator[SessionRow]) -> AsyncIterator[SessionRow]:
    async for row in rows:
        if row.status is not Status.PARKED:  # those are listed by themselves
            yield row


async def _rows(found: AsyncIterator[Any]) -> Rows:
    rows = [row async for row in found]
    return Rows(rows[:ROWS], len(rows) > ROWS)


async def _limiters(ledger: Ledger, now: datetime) -> list[dict[str, Any]]:
    limiters = []
    for name, state in (await ledger.limits.states()).items():
        denied = state.denial(now)
        facts = [(what.rstrip(":"), value) for what, value in limiter_facts(state) if value]
        limiters.append(
            {
                "name": name,
                "denied": denied and f"{denied_sentence(denied)}, until {time(denied.until)}",
                "facts": facts,
            }
        )
    return limiters
