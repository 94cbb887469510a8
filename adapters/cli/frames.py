"""Frames of a replay as plain data: what `--json` prints, and what the pages show. Personal data is masked here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import guestledger
from guestledger.adapters.cli import show

Data = dict[str, Any]


def replay_data(frames: Sequence[guestledger.Frame], *, revealed: bool) -> Data:
    """Return a session with all its frames. `revealed`: personal data is in clear, unless it is sealed."""
    last = frames[-1].state
    return {
        "id": last.id,
        "sessionId": last.session_id,
        "status": last.status,
        "version": last.version,
        "frames": [frame_data(frame, revealed=revealed) for frame in frames],
    }


def frame_data(frame: guestledger.Frame, *, revealed: bool) -> Data:
    """Return one frame."""
    from guestledger.engine.domain.personal import public
    from guestledger.engine.log.codec import wire_name

    recorded = frame.recorded
    return {
        "version": recorded.version,
        "position": recorded.position,
        "recordedAt": recorded.recorded_at,
        "actor": recorded.actor,
        "event": wire_name(recorded.event),
        "data": public(recorded.event, revealed=revealed),
        "state": public(frame.state, revealed=revealed),
        "due": [show.camel_json(step) for step in frame.due],
        "changes": [public(change, revealed=revealed) for change in frame.changes],
        "dueChanges": [show.camel_json(change) for change in frame.due_changes],
        "decision": _decision_data(frame, revealed=revealed),
        "passedMs": in_ms(frame.passed),
        "waits": [show.camel_json(part) | {"ms": in_ms(part.length)} for part in frame.waits],
    }


def difference_data(found: guestledger.Difference, *, revealed: bool) -> Data:
    """Return what changed between two points of a session."""
    from guestledger.engine.domain.personal import public

    return {
        "id": found.after.id,
        "before": {"version": found.before.version, "status": found.before.status},
        "after": {"version": found.after.version, "status": found.after.status},
        "changes": [public(change, revealed=revealed) for change in found.changes],
        "dueChanges": [show.camel_json(change) for change in found.due_changes],
    }


def _decision_data(frame: guestledger.Frame, *, revealed: bool) -> Data:
    from guestledger.engine.domain.personal import public
    from guestledger.engine.log.codec import wire_name

    decision = frame.decision
    first = decision.before.version + 1
    return {
        "command": None if decision.command is None else type(decision.command).__name__,
        "arguments": None if decision.command is None else public(decision.command, revealed=revealed),
        "step": None if decision.step is None else show.camel_json(decision.step),
        "wasDue": decision.was_due,
        "versions": [first + number for number in range(len(decision.recorded))],
        "isReproduced": decision.is_reproduced,
        "decided": [
            {"event": wire_name(event), "data": public(event, revealed=revealed)} for event in decision.decided
        ],
    }


def in_ms(length: timedelta) -> float:
    """Return a length in ms, exact to the microsecond."""
    return length / timedelta(milliseconds=1)
