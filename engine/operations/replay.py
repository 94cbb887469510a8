"""Replay: a session's history, run again step by step, with what `next_step` said at each. No I/O is within reach."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from guestledger.engine.domain.lifecycle import Policy, Step, next_step
from guestledger.engine.domain.session import Session, evolve
from guestledger.engine.log.recorded import RecordedEvent


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One moment of a session: the event, the state it led to, and what was to be done next (`None`: nothing, unless a person decides)."""

    recorded: RecordedEvent
    state: Session
    next: Step | None


def replay(history: Sequence[RecordedEvent], policy: Policy) -> list[Frame]:
    """Every moment of a session, from its first event on."""
    frames: list[Frame] = []
    for recorded in history:
        state = evolve(frames[-1].state if frames else Session(id=recorded.stream_id), recorded.event)
        frames.append(Frame(recorded=recorded, state=state, next=next_step(state, policy)))
    return frames


def until(frames: Sequence[Frame], moment: int | datetime) -> list[Frame]:
    """The moments up to a version, or up to a time (UTC, the database's clock), that one included."""
    if isinstance(moment, int):
        return [frame for frame in frames if frame.recorded.version <= moment]
    return [frame for frame in frames if frame.recorded.recorded_at <= moment]
