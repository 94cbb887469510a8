"""What one batch of appends writes."""

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, NamedTuple
from uuid import UUID

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import WrongExpectedVersion
from guestledger.engine.log.appends import Append, AppendDenied, Appended, KeyTaken
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.merkle import leaf_hash


class Proposal(NamedTuple):
    """An append and the JSON of its events."""

    append: Append
    texts: tuple[str, ...]


class LogEnd(NamedTuple):
    """The log's end as the batch found it, under the lock."""

    position: int
    now: datetime
    """The database's clock; leases and limiters use it."""
    recorded_at: datetime
    """The same, but never before the last event's: times must not run against positions if the clock is set back."""
    versions: dict[UUID, int]
    keys: dict[str, UUID]
    """The taken idempotency keys, with their streams."""
    known: dict[tuple[UUID, int, UUID], Appended]
    """Recorded appends whose answer was lost, by stream, expected version and causation."""
    limiters: frozenset[str]
    """The limiters with a row."""


class _Change(Enum):
    LEASE = auto()
    """Set due time and lease."""
    KEEP = auto()
    """Set the due time only."""
    DONE = auto()


class _StepRow(NamedTuple):
    change: _Change
    due_at: datetime | None = None
    owner: UUID | None = None
    lease_until: datetime | None = None


class BatchRows:
    """The rows of a batch, gathered append by append. A rejected append leaves nothing here."""

    def __init__(self, log: LogEnd, limiters: LimiterTransaction) -> None:
        self._log = log
        self._limiters = limiters
        self._position = log.position
        self._events: list[tuple[Any, ...]] = []
        self._keys: list[tuple[str, UUID]] = []
        self._steps: dict[tuple[UUID, StepName], _StepRow] = {}

    def columns(self) -> list[Any]:
        """The values for the append statement, in its order."""
        events = _arrays(self._events, 10)
        return [
            *events[:5],
            self._log.recorded_at,
            *events[5:],
            *_arrays(self._keys, 2),
            *_arrays([(*key, *row[1:]) for key, row in self._of(_Change.LEASE)], 5),
            *_arrays([(*key, row.due_at) for key, row in self._of(_Change.KEEP)], 3),
            *_arrays([key for key, _ in self._of(_Change.DONE)], 2),
        ]

    def take(self, proposal: Proposal) -> Appended | Exception:
        """Take the append, or reject it. Returns what its caller gets after the commit."""
        append, log = proposal.append, self._log
        if before := log.known.get((append.stream_id, append.expected_version, append.causation_id)):
            return before
        actual, key = log.versions[append.stream_id], append.idempotency_key
        if key is not None and key in log.keys:
            return KeyTaken(log.keys[key])
        if actual != append.expected_version:
            return WrongExpectedVersion(append.stream_id, append.expected_version, actual)
        if append.admission is not None and (denied := self._limiters.admit(append.admission)):
            return AppendDenied(denied)
        if append.feedback is not None:
            self._limiters.observe(append.feedback)
        if key is not None:
            log.keys[key] = append.stream_id
            self._keys.append((key, append.stream_id))
        self._take_events(proposal)
        self._take_steps(append)
        version = log.versions[append.stream_id] = actual + len(append.events)
        return Appended(
            version=version,
            position=self._position,
            recorded_at=log.recorded_at,
            at=log.now,
            limiters=log.limiters,
        )

    def _take_events(self, proposal: Proposal) -> None:
        append = proposal.append
        for version, (event, data) in enumerate(
            zip(append.events, proposal.texts, strict=True), append.expected_version + 1
        ):
            self._position += 1
            event_type, schema_version = wire_name(event), event.schema_version
            leaf = leaf_hash(
                stream_id=append.stream_id,
                version=version,
                event_type=event_type,
                schema_version=schema_version,
                recorded_at=self._log.recorded_at,
                correlation_id=append.correlation_id,
                causation_id=append.causation_id,
                actor=append.actor,
                data=data,
            )
            self._events.append(
                (
                    append.stream_id,
                    version,
                    self._position,
                    event_type,
                    schema_version,
                    append.correlation_id,
                    append.causation_id,
                    append.actor,
                    data,
                    leaf,
                )
            )

    def _take_steps(self, append: Append) -> None:
        changes = append.steps
        lease = changes.lease
        owner = lease.owner if lease else None
        until = self._log.now + timedelta(milliseconds=lease.ms) if lease else None
        for step, due_at in ((due.step, due.due_at) for due in changes.due):
            key = (append.stream_id, step)
            earlier = self._steps.get(key)  # by an append before this one in the batch
            if step in changes.mine:
                self._steps[key] = _StepRow(_Change.LEASE, due_at, owner, until)
            elif earlier is None or earlier.change is _Change.KEEP:
                self._steps[key] = _StepRow(_Change.KEEP, due_at)
            else:
                self._steps[key] = _StepRow(_Change.LEASE, due_at, earlier.owner, earlier.lease_until)
        for step in changes.done:
            self._steps[append.stream_id, step] = _StepRow(_Change.DONE)

    def _of(self, change: _Change) -> list[tuple[tuple[UUID, StepName], _StepRow]]:
        return [(key, row) for key, row in self._steps.items() if row.change is change]


def _arrays(rows: Collection[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
