"""Replay: a session's history folded again, event by event."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from guestledger.engine.domain.due import DueStep, due_steps
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import RecordedEvent


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a session, the state after it, and the steps that were due then."""

    recorded: RecordedEvent
    state: Session
    due: tuple[DueStep, ...]


def replay(history: Sequence[RecordedEvent], policy: Policy) -> list[Frame]:
    """A frame for each event of a session, from the first on."""
    frames: list[Frame] = []
    for recorded in history:
        state = evolve(frames[-1].state if frames else Session(id=recorded.stream_id), recorded.event)
        frames.append(Frame(recorded=recorded, state=state, due=due_steps(state, policy)))
    return frames


def until(frames: Sequence[Frame], moment: int | datetime) -> list[Frame]:
    """The frames up to and including a version, or a time (UTC, the database's clock)."""
    if isinstance(moment, int):
        return [frame for frame in frames if frame.recorded.version <= moment]
    return [frame for frame in frames if frame.recorded.recorded_at <= moment]
