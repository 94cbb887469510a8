"""What a worker looks at before it runs a step, and what it finds."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from guestledger.engine.domain.causes import Cause
from guestledger.engine.limits.retry import Wait, WaitBasis


class ConditionName(StrEnum):
    """What is looked at, in the order of the way to a step. The first two concern the session as a whole."""

    PERSON = "person"
    """No person has to decide: the session is not parked."""
    LEGAL_HOLD = "legal_hold"
    """No legal hold keeps the contact data."""
    LEASE = "lease"
    """No worker has the step."""
    DUE_TIME = "due_time"
    SETTINGS = "settings"
    """This process can run the step, and its settings are those of the workers."""
    PAUSE = "pause"
    """The server asked for no pause."""
    CIRCUIT = "circuit"
    """The circuit is closed, or a probe may be sent."""
    RATE = "rate"
    """The admitted rate leaves room for this session."""
    CONCURRENCY = "concurrency"
    """Fewer calls are in flight than allowed, over all processes."""
    RETRY_BUDGET = "retry_budget"
    DEADLINE = "deadline"
    """The request is sent in time. If it is not, the step is claimed all the same, and gives the session up."""


class Condition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One condition, as a worker finds it once the conditions before it are met. Facts that do not belong to it are `None`."""

    name: ConditionName
    met: bool
    until: datetime | None
    """When it is met if nothing else happens (UTC). `None`: it is met, or no time is known."""
    at: datetime | None = None
    """`DUE_TIME`: when it is due. `DEADLINE`: the deadline. `LEGAL_HOLD`: since when. `PAUSE`: the end of one that is over by then."""
    planned_at: datetime | None = None
    """`DEADLINE`: when the request would be sent."""
    owner: UUID | None = None
    """`LEASE`: who holds it."""
    cause: Cause | None = None
    """`DUE_TIME`, `PERSON`: why, by the history. `None`: put off by a worker, or simply not due."""
    detail: str = ""
    wait: Wait | None = None
    """`DUE_TIME`: what the wait is made of."""
    closed_by: WaitBasis | None = None
    """`PAUSE`: what decided its length."""
    failures: int | None = None
    """`CIRCUIT`: in a row; at `limit` it opens."""
    probing: bool = False
    """`CIRCUIT`: a probe is in flight."""
    rate: float | None = None
    """Per second. `RATE`: learned; `None`: unlimited. `RETRY_BUDGET`: its refill."""
    ahead: int | None = None
    """`RATE`: how many sessions are due before this one; at most `MAX_AHEAD` are counted."""
    in_flight: int | None = None
    """`CONCURRENCY`: calls of other sessions. `None`: no limit is set."""
    retries_left: float | None = None
    """`RETRY_BUDGET`. `None`: the request is no retry and uses none."""
    limit: float | None = None
    """The most for `failures`, `in_flight` or `retries_left`."""


def unmet(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Those that are not met."""
    return tuple(condition for condition in conditions if not condition.met)
