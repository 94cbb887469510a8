"""The timeline of a session in a terminal: one row an event, and between the rows the time that passed, drawn to scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.streams import plain
from guestledger.adapters.forms.messages import waited_sentence
from guestledger.adapters.forms.values import seen

STATUS_STYLES = {
    "active": "green",
    "attempting": "cyan",
    "throttled": "yellow",
    "in_doubt": "yellow",
    "parked": "magenta",
    "rejected": "red",
    "abandoned": "red",
    "refused": "red",
}
WAIT_STYLES = {
    "due_time": "yellow",
    "worker": "red",
    "look_up": "cyan",
    "answer": "cyan",
    "person": "magenta",
    "nothing": "dim",
}
_HEADS = ("v", "recorded at", "event", "state", "next, and when it is due")
_EIGHTHS = "▏▎▍▌▋▊▉█"
_MAX_VALUE = 60
_ALIGNED = 60
"""From this width on, numbers stand in a column."""
_IN_THE_ROW = ("status",)
"""Fields that need no line of their own."""

Row = tuple[Text, ...]


def console() -> Console:
    """Return stdout for a timeline: as wide as the terminal is."""
    return show.console(min_width=20)


def timeline(frames: Sequence[guestledger.Frame], out: Console) -> Group:
    """Return the timeline of a session, for this console."""
    day = frames[0].recorded.recorded_at.date()
    rows = [_row(frame, day) for frame in frames]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, _heads(), strict=True)]
    fitting = _fitting(widths, out.width)
    scale = longest(frames)
    made: list[RenderableType] = [
        Text(f"{frames[0].state.id}, {day} (UTC)", style="italic"),
        _aligned(_heads()[:fitting], widths),
    ]
    for frame, row in zip(frames, rows, strict=True):
        made += [_indented(wait_line(part, scale, out), widths) for part in frame.waits]
        made.append(_aligned(row[:fitting], widths))
        made += [_indented(line, widths) for line in (*_below(row[fitting:]), *_notes(frame, day))]
    return Group(*made)


def wait_line(part: guestledger.Waited, scale: timedelta, out: Console) -> Text:
    """Return a part of the time: the number, a bar to scale (`scale` is the longest), and the name."""
    style = WAIT_STYLES[part.waited_for]
    room = min(max(out.width // 4, 6), 40)
    number = show.span(part.length)
    line = Text(f"{number:>13}  " if out.width >= _ALIGNED else f"{number} ", style="bold")
    line.append(_bar(part.length, scale, room, ascii_only=_is_ascii(out)), style=f"not bold {style}")
    return line.append(f" {plain(waited_sentence(part))}", style="not bold")


def longest(frames: Sequence[guestledger.Frame]) -> timedelta:
    """Return how long the longest part of the time is."""
    return max((part.length for frame in frames for part in frame.waits), default=timedelta())


def arrow(out: Console) -> str:
    """Return an arrow that the console's encoding has."""
    return "->" if _is_ascii(out) else "→"


def _heads() -> Row:
    return tuple(Text(head, style="bold") for head in _HEADS)


def _row(frame: guestledger.Frame, day: date) -> Row:
    from guestledger.engine.log.codec import wire_name

    due = min(frame.due, key=lambda step: step.due_at, default=None)
    status = frame.state.status
    return (
        Text(str(frame.recorded.version)),
        Text(show.time(frame.recorded.recorded_at, day) or ""),
        Text(wire_name(frame.recorded.event), style="bold"),
        Text(status, style=STATUS_STYLES.get(status, "default")),
        Text("" if due is None else f"{due.step} {show.time(due.due_at, day)}"),
    )


def _fitting(widths: Sequence[int], width: int) -> int:
    """How many of the columns fit: the others continue below."""
    fitting = len(widths)
    while fitting > 1 and sum(widths[:fitting]) + 2 * (fitting - 1) > width:
        fitting -= 1
    return fitting


def _aligned(cells: Row, widths: Sequence[int]) -> Text:
    padded = []
    for number, (cell, width) in enumerate(zip(cells, widths, strict=False)):
        padded.append(cell.copy())
        padded[-1].align("right" if number == 0 else "left", width)
    line = Text("  ").join(padded)
    line.rstrip()
    return line


def _below(cells: Row) -> Iterator[Text]:
    texts = [cell for cell in cells if cell.plain]
    if texts:
        yield Text("  ").join(texts)


def _indented(line: Text, widths: Sequence[int]) -> Padding:
    return Padding(line, (0, 0, 0, widths[0] + 2), expand=False)


def _notes(frame: guestledger.Frame, day: date) -> Iterator[Text]:
    """What changed, and whether today's code decides otherwise."""
    changed = [_change_text(change, day) for change in seen(frame.changes) if change.field not in _IN_THE_ROW]
    if changed:
        yield Text(", ".join(changed), style="dim")
    if frame.is_first and not frame.decision.is_reproduced:
        yield Text("today's code decides otherwise: see --step", style="red")


def _change_text(change: guestledger.Change, day: date) -> str:
    from guestledger.engine.domain.personal import masked

    found = masked(change)
    before, after = (show.value(found[name], day, limit=_MAX_VALUE) for name in ("before", "after"))
    if after == "none":
        return f"{change.field} cleared"
    if before in ("none", "set"):
        return f"{change.field} {after}"
    return f"{change.field} {before} to {after}"


def _bar(length: timedelta, scale: timedelta, width: int, *, ascii_only: bool) -> str:
    """A bar to scale. However short, it can be seen."""
    share = length / scale
    if ascii_only:
        return "#" * max(1, round(share * width))
    eighths = max(1, round(share * width * 8))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _is_ascii(out: Console) -> bool:
    return not out.encoding.startswith("utf")
