"""What a what-if finds. Times are UTC."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from guestledger.engine.domain import commands as c, events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.session import Status


class Taken(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A decision as it was taken: in the log, or in the simulation."""

    at: datetime
    """By its own clock."""
    version: int
    """Of its first event."""
    command: c.Command | None
    """`None`: no command of today leads to these events."""
    events: tuple[e.Event, ...]


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """A field in which two decisions differ. Personal values are masked."""

    path: str
    """Such as `CreationThrottled.wait.ms`."""
    recorded: Any
    """`None`: empty, or there is no such decision, event or field."""
    simulated: Any


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The first decision that differs."""

    recorded: Taken | None
    """`None`: the log holds no decision there."""
    simulated: Taken | None
    """`None`: no decision is taken there, or its outcome is unknown."""
    fields: tuple[Contrast, ...]


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """Where a history leads."""

    status: Status
    channel_id: str
    cause: Cause | None
    detail: str | None
    attempts: int
    latency_ms: int | None
    """From the acceptance to the session; `None`: no attempt brought one."""
    webhook_attempts: int
    version: int
    at: datetime
    """Of the last event."""


class Ending(StrEnum):
    """Why a simulation ends."""

    DONE = "done"
    """Nothing is due any more."""
    WAITING = "waiting"
    """The next step is due later, or waits for a worker as it did in the log."""
    PERSON = "person"
    """A person has to decide, and the log holds no decision for it."""
    UNANSWERED = "unanswered"
    """The log holds no answer to a request: see `WhatIf.unanswered`."""


class Assumption(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded answer that was taken for a request at another time. It might have been another one then."""

    command: str
    """The kind of the answer, such as `RecordAttempt`."""
    number: int
    """Of the look-up, the attempt or the delivery, in the simulation."""
    recorded_at: datetime
    at: datetime
    """When the simulation takes it."""
    in_part: bool
    """Whether the log holds only that a session was made: neither its token nor its expiry."""


class Unanswered(msgspec.Struct, frozen=True, kw_only=True):
    """A request that the simulation makes, and to which the log holds no answer."""

    step: StepName
    number: int
    """Of the look-up, the attempt or the delivery."""
    at: datetime
    """When it is sent, at the earliest."""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """What came from outside and has no effect in the simulation, such as a decision about a session that is not parked."""

    command: str
    at: datetime


class WhatIf(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A session under another policy, or by other code, with the outcomes that the log holds."""

    id: UUID
    difference: FirstDifference | None
    """`None`: it would have been the same."""
    recorded: Course
    simulated: Course
    ending: Ending
    """Of the simulation."""
    events: tuple[e.Event, ...]
    """Of the simulation, from the first on."""
    assumed: tuple[Assumption, ...]
    unanswered: tuple[Unanswered, ...]
    """A look-up or an attempt ends the simulation there. Without the answer to a webhook call the rest goes on."""
    left_out: tuple[LeftOut, ...]
    not_reproduced: tuple[int, ...]
    """Versions at which today's code takes another decision than the log, under any recorded policy.

    Up to the first difference these are taken as recorded. Later ones may differ for that reason alone.
    """

    @property
    def is_identical(self) -> bool:
        """Whether every decision is the recorded one."""
        return self.difference is None

    @property
    def outcome_is_known(self) -> bool:
        """Whether the log answers every look-up and every attempt of the simulation."""
        return all(one.step is StepName.DELIVER_WEBHOOK for one in self.unanswered)
