"""Whole lives of sessions as the engine decides them: from the request to the purged token, many with throttles and failures."""

import random
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    EnforceDeadline,
    EraseContact,
    ExpireToken,
    OpenSession,
    PurgeToken,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    SettleAttempt,
)
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import CreationOutcome, FailureKind
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.codec import encode, wire_name
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.personal_fields import personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent, began_at
from tests.unit import samples

START = samples.START
POLICY = Policy()
_DIGEST = "ab" * 32


def life(session_id: UUID, seed: int, policy: Policy = POLICY) -> list[Event]:
    """The events of one session, as they are in the log: a commitment in place of each personal value."""
    chance, now, state = random.Random(seed), START, Session(id=session_id)
    command: Command = OpenSession(
        hmac_key=samples.HMAC_KEY, request=samples.request(channel_id=f"ch_{seed % 20:02}"), now=now
    )
    events: list[Event] = []
    while True:
        decided = decide(state, command, policy)
        events += decided
        state = evolve_all(state, decided)
        due = sorted(due_steps(state, policy), key=lambda step: step.due_at)
        if not due:
            return [sealed(event, chance) for event in events]
        now = max(now, due[0].due_at) + timedelta(milliseconds=chance.randint(1, 60))
        command = _command(due[0].step, state, now, chance)


def _command(step: StepName, state: Session, now: datetime, chance: random.Random) -> Command:
    jitter = chance.randrange(1_000) / 1_000
    match step:
        case StepName.VALIDATE_CHANNEL:
            return RecordLookup(outcome=samples.channel(id=state.channel_id, looked_up_at=now), now=now, jitter=jitter)
        case StepName.CREATE_SESSION:
            return BeginAttempt(request_hmac=_DIGEST, now=now)
        case StepName.SETTLE_ATTEMPT if chance.random() < 0.02:
            return SettleAttempt(attempt=state.attempts, now=now, jitter=jitter)
        case StepName.SETTLE_ATTEMPT:
            return RecordAttempt(attempt=state.attempts, outcome=_outcome(state, now, chance), now=now, jitter=jitter)
        case StepName.ENFORCE_DEADLINE:
            return EnforceDeadline(now=now)
        case StepName.DELIVER_WEBHOOK:
            return RecordDelivery(
                notice=state.notice,
                outcome=samples.delivered(200 if chance.random() < 0.95 else 503),
                now=now,
                jitter=jitter,
            )
        case StepName.EXPIRE_TOKEN:
            return ExpireToken(now=now)
        case StepName.PURGE_TOKEN:
            return PurgeToken(now=now)
        case StepName.ERASE_CONTACT:
            return EraseContact(now=now)


def _outcome(state: Session, now: datetime, chance: random.Random) -> CreationOutcome:
    drawn = chance.random()
    if drawn < 0.08:
        return samples.throttled(chance.randint(0, 3) * 1_000)
    if drawn < 0.12:
        return samples.failed(chance.choice([FailureKind.UNSENT, FailureKind.UNAVAILABLE, FailureKind.IN_DOUBT]))
    if drawn < 0.13:
        return samples.failed(FailureKind.FINAL, 422)
    return samples.created(session_id=f"sess_{state.id.hex[-12:]}", expires_at=now + timedelta(hours=1))


def recorded_life(session_id: UUID, seed: int, policy: Policy = POLICY, first_position: int = 0) -> list[RecordedEvent]:
    """The same as it is stored."""
    return stored(session_id, life(session_id, seed, policy), first_position)


def stored(session_id: UUID, events: Sequence[Event], first_position: int = 0) -> list[RecordedEvent]:
    """These events of one session as they are stored, each at its own time."""
    return [
        _stored(session_id, version, event, encode(event), event.at, first_position)
        for version, event in enumerate(events, 1)
    ]


def copied(history: Sequence[RecordedEvent], session_id: UUID, first_position: int) -> list[RecordedEvent]:
    """The same life in another session, recorded at the time of its id, with leaf hashes that fit. Faster than a life of its own."""
    before, after = str(history[0].stream_id), str(session_id)
    later = began_at(session_id) - history[0].recorded_at
    return [
        _stored(
            session_id,
            one.version,
            one.event,
            one.data.replace(before, after),
            one.recorded_at + later,
            first_position,
        )
        for one in history
    ]


def _stored(
    session_id: UUID, version: int, event: Event, data: str, recorded_at: datetime, first_position: int
) -> RecordedEvent:
    hashed: dict[str, Any] = {
        "stream_id": session_id,
        "version": version,
        "recorded_at": recorded_at,
        "correlation_id": str(session_id),
        "causation_id": session_id,
        "actor": "tests",
        "data": data,
        "schema_version": event.schema_version,
    }
    leaf = leaf_hash(**hashed, event_type=wire_name(event))
    return RecordedEvent(**hashed, position=first_position + version - 1, event=event, leaf_hash=leaf)


def sealed(event: Event, chance: random.Random) -> Event:
    """`event` with something like a commitment in place of each personal value."""
    return with_values(
        event,
        {
            path: Sealed(urlsafe_b64encode(chance.randbytes(32)).rstrip(b"=").decode())
            for path in personal_values(event)
        },
    )
