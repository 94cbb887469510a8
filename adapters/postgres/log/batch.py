"""What one batch of appends will write, worked out under the ledger's lock."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain.errors import WrongExpectedVersion
from guestledger.engine.log.appends import Append, AppendDenied, Appended, Due, KeyTaken
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.merkle import leaf_hash


class Proposal(NamedTuple):
    """An append with the canonical JSON of each of its events."""

    append: Append
    texts: tuple[str, ...]


class LogEnd(NamedTuple):
    """The log's end as the batch found it, under the lock."""

    position: int
    now: datetime
    """By the database's clock; leases and limiters go by it."""
    recorded_at: datetime
    """The same, but never before the last event's: a clock that is set back must not make the log's times run against its
    positions."""
    versions: dict[UUID, int]
    keys: dict[str, UUID]
    """Those of the batch's idempotency keys that have opened a stream before."""
    known: dict[tuple[UUID, int, UUID], Appended]
    """Those of the batch's appends that went in before although their answer was lost, by stream, expected version and
    causation."""
    limited_: bool
    """Whether anything is known against any API."""


class BatchRows:
    """The rows of a batch, gathered append by append; one that is turned away leaves nothing here."""

    def __init__(self, log: LogEnd, limiters: LimiterTransaction) -> None:
        self._log = log
        self._gates = limiters
        self._position = log.position
        self._events: list[tuple[Any, ...]] = []
        self._keys: list[tuple[str, UUID]] = []
        self._due: dict[UUID, tuple[Any, ...]] = {}
        self._kept: dict[UUID, tuple[Any, ...]] = {}
        self._done: set[UUID] = set()

    def columns(self) -> list[Any]:
        """The values for the append statement, in its order: arrays, and the one time that all of the batch has."""
        events = _arrays(self._events, 10)
        return [
            *events[:5],
            self._log.recorded_at,
            *events[5:],
            *_arrays(self._keys, 2),
            *_arrays(self._due.values(), 6),
            *_arrays(self._kept.values(), 4),
            list(self._done),
        ]

    def take(self, proposal: Proposal) -> Appended | Exception:
        """Take the append into the batch, or turn it away: what its caller will be told once the batch is committed."""
        append, log = proposal.append, self._log
        if before := log.known.get((append.stream_id, append.expected_version, append.causation_id)):
            return before
        actual, key = log.versions[append.stream_id], append.idempotency_key
        if key is not None and key in log.keys:
            return KeyTaken(log.keys[key])
        if actual != append.expected_version:
            return WrongExpectedVersion(append.stream_id, append.expected_version, actual)
        if append.passage is not None and (held := self._gates.admit(append.passage)):
            return AppendDenied(held)
        if append.hearing is not None:
            self._gates.observe(append.hearing)
        if key is not None:
            log.keys[key] = append.stream_id
            self._keys.append((key, append.stream_id))
        self._take_events(proposal)
        self._take_due(append.stream_id, append.due)
        version = log.versions[append.stream_id] = actual + len(append.events)
        return Appended(version=version, position=self._position, recorded_at=log.recorded_at, at=log.now)

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

    def _take_due(self, stream_id: UUID, due: Due | None) -> None:
        earlier = self._due.pop(stream_id, None)  # by an append before this one in the batch
        self._kept.pop(stream_id, None)
        if due is None:
            self._done.add(stream_id)
        elif due.keep_lease and earlier is not None:
            self._due[stream_id] = (stream_id, due.step, due.due_at, due.ends_at, *earlier[4:])
        elif due.keep_lease and stream_id not in self._done:
            self._kept[stream_id] = (stream_id, due.step, due.due_at, due.ends_at)
        else:
            self._done.discard(stream_id)
            owner = due.lease and due.lease.owner
            until = due.lease and self._log.now + timedelta(milliseconds=due.lease.ms)
            self._due[stream_id] = (stream_id, due.step, due.due_at, due.ends_at, owner, until)


def _arrays(rows: Collection[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
