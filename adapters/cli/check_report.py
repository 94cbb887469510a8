"""What a check found, for people and for programs. Personal data is masked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from guestledger.adapters.cli import show

if TYPE_CHECKING:
    from guestledger.engine.domain.events import Event
    from guestledger.engine.replay.check import CheckReport, Divergence, Group


def write_report(report: CheckReport, allowed: Collection[str], *, seconds: float, json: bool) -> None:
    """Write the first divergence in full, the kinds with an example each, and the totals."""
    if json:
        show.write_json(_json(report, allowed, seconds))
        return
    console = show.console()
    first = report.first(allowed)
    if first is not None:
        for part in _in_full(first):
            console.print(part, soft_wrap=isinstance(part, str))
    for line in _kinds(report, allowed):
        console.print(line, soft_wrap=True)
    console.print(_totals(report, allowed, seconds), soft_wrap=True)


def _kinds(report: CheckReport, allowed: Collection[str]) -> list[str]:
    """The kinds, in the form of a list for --allow."""
    lines = []
    for kind, group in _sorted(report):
        also = ", allowed" if kind in allowed else ""
        lines += [f"# {group.sessions} sessions, such as {group.example.session_id}{also}", kind]
    lines += [f"# unused in the list of allowed kinds: {kind}" for kind in _unused(report, allowed)]
    return [*lines, ""] if lines else []


def _totals(report: CheckReport, allowed: Collection[str], seconds: float) -> str:
    found = sum(group.sessions for kind, group in report.groups.items() if kind not in allowed)
    also = sum(group.sessions for group in report.groups.values()) - found
    return (
        f"{report.sessions} sessions, {report.events} events, {report.decisions} decisions in {seconds:.1f} s "
        f"({report.sessions / max(seconds, 0.001):.0f} sessions a second): {found} sessions diverge"
        + (f", and {also} in ways that are allowed" if also else "")
    )


def _in_full(first: Divergence) -> list[str | Table]:
    place = f"first divergence: session {first.session_id}, version {first.version}"
    parts: list[str | Table] = [place, f"  {first.kind}"]
    if (decision := first.decision) is not None:
        parts.append(f"  command {_command(decision.command)}")
        if not decision.was_due:
            parts.append(f"  {_due_words(first)}")
        parts.append(_side_by_side(first))
    else:
        parts.append(f"  {first.error}")
    return [*parts, ""]


def _due_words(first: Divergence) -> str:
    assert first.decision is not None
    step = first.decision.step
    if step is None:
        return "by this release, nothing is due that it belongs to"
    return f"by this release, {step.step} is due at {show.time(step.due_at)}"


def _side_by_side(first: Divergence) -> Table:
    both = _both(first)
    recorded = "recorded" if first.due is None else "in the bundle"
    made = show.table("", "field", recorded, "this release", wraps=("field", recorded, "this release"))
    for path in dict.fromkeys([*both[0], *both[1]]):
        recorded, now = (values.get(path, "") for values in both)
        show.add_row(made, "" if recorded == now else "!", path, recorded, now)
    return made


def _both(first: Divergence) -> tuple[dict[str, Any], dict[str, Any]]:
    if first.due is not None:
        before, now = ({step: show.time(at) for step, at in times.items()} for times in first.due)
        return before, now
    assert first.decision is not None
    recorded, decided = (_flat_events(events) for events in (first.decision.recorded, first.decision.decided))
    return recorded, decided


def _flat_events(events: Sequence[Event]) -> dict[str, Any]:
    from guestledger.adapters.forms.events import named_event

    found: dict[str, Any] = {}
    for number, event in enumerate(map(named_event, events), 1):
        prefix = f"{number}." if len(events) > 1 else ""
        found |= {f"{prefix}event": event.event, **show.flat(event.data, prefix)}
    return found


def _command(command: Any) -> str:
    from guestledger.engine.domain.personal import public

    if command is None:
        return "unknown"
    return f"{type(command).__name__} " + ", ".join(
        f"{path}={value}" for path, value in show.flat(public(command)).items()
    )


def _sorted(report: CheckReport) -> list[tuple[str, Group]]:
    return sorted(report.groups.items(), key=lambda item: (-item[1].sessions, item[0]))


def _unused(report: CheckReport, allowed: Collection[str]) -> list[str]:
    return [kind for kind in allowed if kind not in report.groups]


def _json(report: CheckReport, allowed: Collection[str], seconds: float) -> dict[str, Any]:
    first = report.first(allowed)
    return {
        "sessions": report.sessions,
        "events": report.events,
        "decisions": report.decisions,
        "seconds": round(seconds, 3),
        "first": None if first is None else _divergence_json(first),
        "kinds": [
            {
                "kind": kind,
                "sessions": group.sessions,
                "allowed": kind in allowed,
                "example": _divergence_json(group.example),
            }
            for kind, group in _sorted(report)
        ],
        "unusedAllowed": _unused(report, allowed),
    }


def _divergence_json(found: Divergence) -> dict[str, Any]:
    from guestledger.adapters.forms.events import named_event
    from guestledger.engine.domain.personal import public

    decision = found.decision
    command = decision and decision.command
    return {
        "id": found.session_id,
        "version": found.version,
        "kind": found.kind,
        "command": command and type(command).__name__,
        "arguments": public(command),
        "wasDue": decision and decision.was_due,
        "step": decision and decision.step and show.camel_json(decision.step),
        "recorded": list(map(named_event, decision.recorded)) if decision else [],
        "decided": list(map(named_event, decision.decided)) if decision else [],
        "recordedDue": found.due and found.due[0],
        "due": found.due and found.due[1],
        "error": found.error or None,
    }
