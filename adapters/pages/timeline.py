"""The page of one session's timeline, for a ticket."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from guestledger.adapters.forms import values
from guestledger.adapters.forms.frames import frame_form
from guestledger.adapters.forms.messages import WAITED, session_reason, waited_sentence
from guestledger.adapters.pages import environment, rendered
from guestledger.engine.log.codec import wire_name
from guestledger.engine.replay.timeline import Frame
from guestledger.engine.replay.waits import Waited

Frames = Sequence[Frame]

_LABEL_WIDTH = 2.2
"""What a character of a label needs on a phone, in percent of the axis."""
_MIN_WIDTH = 0.4
"""In percent: a shorter piece could not be seen."""
_MARK_GAP = 4.0
"""Versions closer than this (in percent) would be printed over each other."""
_DOMINATES = 4
"""The time after the guest had an answer gets an axis of its own if all is this many times as long as the time before."""


class Piece(NamedTuple):
    """A part of the time on an axis. Positions are percent of its width."""

    start: float
    width: float
    waited_for: str
    label: str
    sentence: str


class Mark(NamedTuple):
    """An event on an axis: a line, and the version unless there is no room."""

    at: float
    version: str


class Axis(NamedTuple):
    """A time axis, drawn to scale."""

    title: str
    since: str
    until: str
    pieces: list[Piece]
    marks: list[Mark]


class Row(NamedTuple):
    """An event in the list of all, and what the session waited for before it."""

    version: int
    recorded_at: datetime
    event: str
    status: str
    pieces: list[Piece]


class Share(NamedTuple):
    """How much of the whole time was for one thing."""

    waited_for: str
    name: str
    length: str


def timeline_page(frames: Frames, *, revealed: bool) -> str:
    """Return the page. Personal data is masked unless `revealed`."""
    day = frames[0].recorded.recorded_at.date()
    made = environment()
    made.filters |= {"value": partial(values.value, day=day), "given": values.given}
    last = frames[-1].state
    return rendered(
        made,
        "timeline.html",
        ("style.css", "timeline.css"),
        session=last,
        reason=session_reason(last),
        day=day,
        opened=_moment(frames[0]),
        last=_moment(frames[-1]),
        total=values.span(_whole(frames)),
        axes=axes(frames),
        shares=shares(frames),
        events=[(row, whole_event(frame, revealed=revealed)) for row, frame in zip(rows(frames), frames, strict=True)],
        revealed=revealed,
    )


def axes(frames: Frames) -> list[Axis]:
    """Return the axes of a session's time: of the time until the guest had an answer, if all took much longer, and of all."""
    return list(_axes(frames, frames[0].recorded.recorded_at.date()))


def _axes(frames: Frames, day: date) -> Iterator[Axis]:
    answered = next((number for number, frame in enumerate(frames, 1) if frame.state.status.is_settled), None)
    begun = frames[:answered]
    if answered is not None and timedelta() < _whole(begun) * _DOMINATES < _whole(frames):
        yield _axis("Until the guest had an answer", begun, day)
    if _whole(frames):
        yield _axis("All of it", frames, day)


def _axis(title: str, frames: Frames, day: date) -> Axis:
    since, whole = frames[0].recorded.recorded_at, _whole(frames)

    def percent(moment: datetime) -> float:
        return round(100 * ((moment - since) / whole), 3)

    pieces = []
    for part in (part for frame in frames for part in frame.waits):
        width, number = _percent(part, whole), values.span(part.length)
        label = number if width >= _LABEL_WIDTH * len(number) else ""
        start = min(percent(part.since), 100 - width)
        pieces.append(Piece(start, width, part.waited_for, label, f"{number} {waited_sentence(part)}"))
    return Axis(
        title=f"{title}: {values.span(whole)}",
        since=values.time(since, day) or "",
        until=values.time(frames[-1].recorded.recorded_at, day) or "",
        pieces=pieces,
        marks=_marks([(percent(frame.recorded.recorded_at), frame.recorded.version) for frame in frames]),
    )


def _marks(events: Sequence[tuple[float, int]]) -> list[Mark]:
    """The marks of events. The first and the last have their versions."""
    marks, free_from, last = list[Mark](), 0.0, events[-1]
    for at, version in events:
        has_room = (at, version) == last or free_from <= at <= last[0] - _MARK_GAP
        marks.append(Mark(at, str(version) if has_room else ""))
        free_from = at + _MARK_GAP if has_room else free_from
    return marks


def shares(frames: Frames) -> list[Share]:
    """Return what the whole time was for, the most first."""
    lengths: dict[str, timedelta] = {}
    for part in (part for frame in frames for part in frame.waits):
        lengths[part.waited_for] = lengths.get(part.waited_for, timedelta()) + part.length
    ordered = sorted(lengths.items(), key=lambda item: -item[1])
    return [Share(name, WAITED[name].partition(":")[0], values.span(length)) for name, length in ordered]


def rows(frames: Frames) -> list[Row]:
    """Return a row for each event, with the waits before it."""
    longest = max((part.length for frame in frames for part in frame.waits), default=timedelta(1))
    return [
        Row(
            version=frame.recorded.version,
            recorded_at=frame.recorded.recorded_at,
            event=wire_name(frame.recorded.event),
            status=frame.state.status,
            pieces=[_row_piece(part, longest) for part in frame.waits],
        )
        for frame in frames
    ]


def whole_event(frame: Frame, *, revealed: bool) -> Mapping[str, Any]:
    """Return everything about one event: the frame, its form, the changes that can be seen, and the due steps."""
    changed = {change.step for change in frame.due_changes}
    form = frame_form(frame, revealed=revealed)
    return {
        "form": form,
        "changes": values.seen(form.changes),
        "frame": frame,
        "next": min(frame.due, key=lambda step: step.due_at, default=None),
        "staying": [step for step in frame.due if step.step not in changed],
    }


def _row_piece(part: Waited, longest: timedelta) -> Piece:
    return Piece(0, _percent(part, longest), part.waited_for, values.span(part.length), waited_sentence(part))


def _percent(part: Waited, whole: timedelta) -> float:
    return max(_MIN_WIDTH, round(100 * (part.length / whole), 3))


def _whole(frames: Frames) -> timedelta:
    return frames[-1].recorded.recorded_at - frames[0].recorded.recorded_at


def _moment(frame: Frame) -> Any:
    return values.time(frame.recorded.recorded_at)
