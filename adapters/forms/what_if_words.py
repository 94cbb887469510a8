"""What a what-if found, in words: the rows of its tables, and its notes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from guestledger.adapters.forms.messages import ANSWERS, ENDINGS, REQUESTS, cause_sentence
from guestledger.adapters.forms.values import time

if TYPE_CHECKING:
    from guestledger.engine.replay.findings import Assumption, Course, FirstDifference, Taken, Unanswered, WhatIf

CHECK = "a difference may come from the code, not the policy"


class Row(NamedTuple):
    """A fact as recorded, and as it would have been."""

    name: str
    recorded: object
    simulated: object


class Note(NamedTuple):
    """What to know about the answer: a sentence, and perhaps a list below it."""

    sentence: str
    items: tuple[str, ...] = ()


def difference_rows(difference: FirstDifference) -> Iterator[Row]:
    """Yield the rows of the first decision that differs."""
    sides = difference.recorded, difference.simulated
    yield Row("decided at", *(time(side.at) if side else "nothing is decided" for side in sides))
    yield Row("version", *(side.version if side else None for side in sides))
    yield Row("command", *(type(side.command).__name__ if side and side.command else None for side in sides))
    yield Row("events", *(_kinds(side) if side else None for side in sides))
    for field in difference.fields:
        if field.path != "command" and not field.path.startswith("event "):  # they are above
            yield Row(field.path, _cell(field.recorded), _cell(field.simulated))


def course_rows(found: WhatIf) -> Iterator[Row]:
    """Yield the rows of where each history leads."""
    sides = found.recorded, found.simulated
    yield Row("status", *(side.status for side in sides))
    yield Row("reason", *map(_reason, sides))
    yield Row("latest event", *(time(side.at) for side in sides))
    yield Row("attempts", *(side.attempts for side in sides))
    yield Row("ms to the session", *(side.latency_ms for side in sides))
    yield Row("webhook calls", *(side.webhook_attempts for side in sides))


def notes(found: WhatIf) -> Iterator[Note]:
    """Yield what to know about a what-if that differs."""
    yield Note(f"the what-if ends there: {ENDINGS[found.ending]}", tuple(map(_unanswered, found.unanswered)))
    if found.not_reproduced:
        versions = ", ".join(map(str, found.not_reproduced))
        yield Note(f"today's code takes another decision than the log at version {versions}: {CHECK}")
    if found.assumed:
        yield Note(
            "assumed: these recorded answers, at other times. They might have been others then",
            tuple(map(_assumed, found.assumed)),
        )
    if found.left_out:
        yield Note(
            "left out: what came from outside, and has no effect any more",
            tuple(f"{one.command}, recorded at {time(one.at)}" for one in found.left_out),
        )


def same_sentence(found: WhatIf) -> str:
    """Say that no decision differs."""
    return f"no decision differs; it is {found.simulated.status}: {ENDINGS[found.ending]}"


def _kinds(taken: Taken) -> str:
    return ", ".join(type(event).__name__ for event in taken.events) or "none"


def _cell(value: object) -> object:
    return time(value) if isinstance(value, datetime) else value


def _reason(course: Course) -> str | None:
    if course.cause is None:
        return None
    return cause_sentence(course.cause, course.detail, channel_id=course.channel_id)


def _unanswered(one: Unanswered) -> str:
    request = REQUESTS[one.step].format(number=one.number, at=time(one.at))
    rest = "the rest goes on without it" if one.step == "deliver_webhook" else "from here the log cannot say"
    return f"{request}; no answer to it was recorded: {rest}"


def _assumed(one: Assumption) -> str:
    answer = ANSWERS[one.command].format(number=one.number)
    part = "; only that a session was made is recorded, not its token or its expiry" if one.in_part else ""
    return f"{answer}: recorded at {time(one.recorded_at)}, taken at {time(one.at)}{part}"
