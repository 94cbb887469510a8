"""Metrics, and the limits towards the provider."""

from typing import Any

import msgspec

from guestledger.adapters.api.handlers.fields import Moment, Text
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.api.route import OPERATOR, Context, Params, Route
from guestledger.adapters.forms.camel import camel, camel_type
from guestledger.adapters.forms.metrics import DayForm, MetricsForm, day_form, metrics_form
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.projections.metrics import MetricsFilter


class ReadMetrics(Params, frozen=True, kw_only=True):
    """Which events are counted, in whole minutes."""

    channel_id: Text | None = None
    since: Moment | None = None
    until: Moment | None = None


class DaysForm(msgspec.Struct, frozen=True, kw_only=True):
    """The metrics of each day (UTC) and channel that has any, oldest first."""

    items: list[DayForm]


LimiterForm: Any = msgspec.defstruct(
    "LimiterForm", [("limiter", str)], bases=(camel_type(LimiterState),), kw_only=True, frozen=True, module=__name__
)
"""A limiter by name, and its state. Times are UTC; one in the past no longer restricts anything."""


class LimitersForm(msgspec.Struct, frozen=True, kw_only=True):
    """The limiters that restrict requests now."""

    items: list[LimiterForm]


class LimiterPath(Params, frozen=True, kw_only=True):
    """One limiter."""

    name: Text


class ResetForm(msgspec.Struct, frozen=True, kw_only=True):
    """A limiter without a state: it restricts nothing."""

    limiter: str


async def get_metrics(asked: ReadMetrics, context: Context) -> MetricsForm:
    """Return success rate, latency and counts."""
    return metrics_form(await context.ledger.metrics(_filter(asked)))


async def get_days(asked: ReadMetrics, context: Context) -> DaysForm:
    """Return the metrics by day (UTC) and channel."""
    return DaysForm(items=[day_form(row) for row in await context.ledger.projections.metrics_by_day(_filter(asked))])


async def list_limits(_asked: Params, context: Context) -> LimitersForm:
    """List the rate limiters towards the provider that restrict requests now."""
    states = await context.ledger.limits.states()
    return LimitersForm(items=[_form(name, state) for name, state in states.items()])


async def reset_limit(asked: LimiterPath, context: Context) -> ResetForm:
    """Delete a limiter's state, also the pause that its server asked for. Repeated, it answers 404."""
    if not await context.ledger.limits.reset(asked.name, requested_by=context.caller.name):
        raise Refused("limiter-not-found", "This limiter has no state: GET /v1/limits lists those that have.")
    return ResetForm(limiter=asked.name)


def _form(name: str, state: LimiterState) -> Any:
    return LimiterForm(limiter=name, **msgspec.structs.asdict(camel(state)))


def _filter(asked: ReadMetrics) -> MetricsFilter:
    return MetricsFilter(channel_id=asked.channel_id, since=asked.since, until=asked.until)


ROUTES = (
    Route(method="GET", path="/v1/metrics", handler=get_metrics, request=ReadMetrics, answer=MetricsForm),
    Route(method="GET", path="/v1/metrics/days", handler=get_days, request=ReadMetrics, answer=DaysForm),
    Route(method="GET", path="/v1/limits", handler=list_limits, answer=LimitersForm),
    Route(
        method="POST",
        path="/v1/limits/{name}/reset",
        handler=reset_limit,
        request=LimiterPath,
        answer=ResetForm,
        roles=OPERATOR,
        problems=("limiter-not-found",),
    ),
)
