"""`guestledger replay --step` and `--diff`: one event in full, and the difference between two points."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.lines import in_thread, read_chunk
from guestledger.adapters.cli.streams import plain
from guestledger.adapters.cli.timeline import arrow, longest, wait_line
from guestledger.adapters.forms.frames import DecisionForm, frame_form
from guestledger.adapters.forms.values import seen

_PROMPT = "Enter: next, p: previous, a version, q: quit > "
_STDIN = 0


async def step_through(frames: Sequence[guestledger.Frame], out: Console) -> None:
    """Show one event after another, in full. On a terminal, wait for the Enter key before the next."""
    waits_for_keys = sys.stdin is not None and sys.stdin.isatty() and out.is_terminal
    at: int | None = 0
    while at is not None and at < len(frames):
        out.print(event_page(frames, at, out))
        at = await _chosen(frames, at) if waits_for_keys and len(frames) > 1 else at + 1


def event_page(frames: Sequence[guestledger.Frame], at: int, out: Console) -> Group:
    """Return everything about one event. What is not set is left out."""
    frame, scale = frames[at], longest(frames)
    changes = seen(frame.changes)
    form, day = frame_form(frame, revealed=False), frame.recorded.recorded_at.date()
    recorded = f"recorded {show.time(frame.recorded.recorded_at)} (UTC) by {plain(frame.recorded.actor)}"
    lines: list[RenderableType] = [
        Text(f"event {frame.recorded.version} of {frames[-1].recorded.version}: {form.event}", style="bold underline"),
        Text(recorded),
        _title("time", "" if frame.waits else "none passed since the event before"),
        *(_in(wait_line(part, scale, out)) for part in frame.waits),
        _title("state", "" if changes else "no change"),
        *_changes(changes, day, out),
        _title("due steps", "" if frame.due_changes or frame.due else "none"),
        *_due_changes(frame.due_changes, day, out),
        *_staying(frame, day),
        _title("decision", _decision_words(form.decision)),
        *_values(form.decision.arguments or {}, day),
        *_decided_otherwise(frame, form.decision, day),
        _title("event", ""),
        *_values(form.data, day),
        Text(),
    ]
    return Group(*lines)


def difference_page(found: guestledger.Difference, out: Console) -> Group:
    """Return what changed between two points."""
    before, after = (
        f"version {state.version} ({state.status})" if state.version else "before the first event"
        for state in (found.before, found.after)
    )
    changes = seen(found.changes)
    return Group(
        Text(f"{found.after.id}, {before} {arrow(out)} {after}", style="italic"),
        _title("state", "" if changes else "no change"),
        *_changes(changes, None, out, in_full=True),
        _title("due steps", "" if found.due_changes else "no change"),
        *_due_changes(found.due_changes, None, out),
    )


async def _chosen(frames: Sequence[guestledger.Frame], at: int) -> int | None:
    """The next frame that the person wants; `None`: no more."""
    while True:
        sys.stdout.write(_PROMPT)
        sys.stdout.flush()
        given = (await in_thread(partial(read_chunk, _STDIN))).decode(errors="replace")
        word = given.strip().lower()
        if word in ("q", "quit") or not given:
            return None
        if word in ("", "n"):
            return at + 1
        if word == "p":
            return max(at - 1, 0)
        if word.isdecimal() and frames[0].recorded.version <= int(word) <= frames[-1].recorded.version:
            return int(word) - frames[0].recorded.version


def _decision_words(decision: DecisionForm) -> str:
    words = decision.command or "no command leads to this event"
    if len(decision.versions) > 1:
        words += f", which made events {', '.join(map(str, decision.versions))}"
    if decision.step is not None:
        words += f"; step {decision.step.step}"
    return f"{words}; today's code decides {'the same' if decision.is_reproduced else 'otherwise'}"


def _decided_otherwise(frame: guestledger.Frame, decision: DecisionForm, day: date) -> Iterator[Padding]:
    if decision.is_reproduced:
        return
    if not decision.was_due:
        yield _in(Text("by today's code it was not due then", style="red"))
    if frame.decision.decided != frame.decision.recorded:
        if not decision.decided:
            yield _in(Text("today's code decides nothing", style="red"))
        for event in decision.decided:
            yield _in(Text(f"today's code decides {event.event}", style="red"))
            yield from _values(event.data, day, 4)


def _changes(
    changes: Sequence[guestledger.Change], day: date | None, out: Console, *, in_full: bool = False
) -> Iterator[Padding]:
    from guestledger.engine.domain.personal import masked, public

    width = max((len(change.field) for change in changes), default=0)
    for change in changes:
        found, after = masked(change), public(change.after)
        yield _in(_before_after(change.field, width, found["before"], found["after"], day, out))
        if in_full and isinstance(after, dict):
            yield from _values(after, day, 4)


def _due_changes(changes: Sequence[guestledger.DueChange], day: date | None, out: Console) -> Iterator[Padding]:
    width = max((len(change.step) for change in changes), default=0)
    for change in changes:
        style = "green" if change.before is None else "red" if change.after is None else "yellow"
        yield _in(_before_after(change.step, width, change.before, change.after, day, out, style))


def _before_after(
    name: str, width: int, before: Any, after: Any, day: date | None, out: Console, style: str = "default"
) -> Text:
    was, now = show.value(before, day), show.value(after, day)
    return Text(f"{name:{width}}  ", style=style).append(f"{was} {arrow(out)} {now}", style="default")


def _staying(frame: guestledger.Frame, day: date) -> Iterator[Padding]:
    changed = {change.step for change in frame.due_changes}
    for step in frame.due:
        if step.step not in changed:
            yield _in(Text(f"{step.step}  stays {show.time(step.due_at, day)}", style="dim"))


def _values(data: Mapping[str, Any], day: date | None, indent: int = 2) -> Iterator[Padding]:
    """One value a line; what is nested is indented. What is not set is left out."""
    given = {name: value for name, value in data.items() if not show.is_unset(value)}
    width = max((len(name) for name, value in given.items() if not isinstance(value, Mapping)), default=0)
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield _in(Text(name, style="dim"), indent)
            yield from _values(dict(value), day, indent + 2)
        else:
            yield _in(Text(f"{name:{width}}  ", style="dim").append(show.value(value, day), style="not dim"), indent)


def _title(name: str, words: str) -> Text:
    return Text(name, style="bold").append(f"  {plain(words)}" if words else "", style="not bold")


def _in(line: Text, indent: int = 2) -> Padding:
    return Padding(line, (0, 0, 0, indent), expand=False)
