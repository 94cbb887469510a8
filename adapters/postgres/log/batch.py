"""What one batch of appends writes."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from msgspec.structs import replace

from guestledger.adapters.postgres.json_rows import json_text
from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.adapters.postgres.log.rows import EventRow, Leased, Moved, RequestKeyRow
from guestledger.adapters.postgres.personal.sealed_append import IndexRow, SealedRow, Sealing
from guestledger.adapters.postgres.personal.vault import KeyRow
from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.errors import SubjectErased, WrongExpectedVersion
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.limits.clock_step import MIN_STEP
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.log.appends import Append, AppendDenied, Appended, KeyTaken
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.merkle import leaf_hash


class Proposal(NamedTuple):
    """An append, sealed, and the JSON of its events."""

    append: Append
    texts: Sequence[str]
    sealing: Sealing


class KeysRotated(Exception):
    """The append brings data keys under a key-encryption key that has been replaced. Nothing was recorded."""


class LogEnd(NamedTuple):
    """The log's end as the batch found it, under the lock."""

    position: int
    now: datetime
    """The database's clock; leases and limiters use it."""
    recorded_at: datetime
    """The same, but never before the last event's: times must not run against positions if the clock is set back."""
    versions: dict[UUID, int]
    keys: dict[str, UUID]
    """The taken idempotency keys (hashed), with their streams."""
    destroyed: frozenset[UUID]
    """The data keys that nothing may be sealed under any more."""
    kek: str | None
    """The key-encryption key that wraps new data keys."""
    fenced: frozenset[bytes]
    """The subjects that are being erased."""
    known: dict[tuple[UUID, int, UUID], Appended]
    """Recorded appends whose answer was lost, by stream, expected version and causation."""
    limiters: frozenset[str]
    """The limiters with a row."""
    asked: Sequence[str]
    """The limiters that these appends ask or feed back to."""
    states: Mapping[str, LimiterState]
    """The states of those of them that have a row, under their locks."""


_Key = tuple[UUID, StepName]


class KeyDestroyed(SubjectErased):
    """An append was sealed under keys that are destroyed by now, though its subject may have others."""

    def __init__(self, stream_id: UUID, key_ids: Collection[UUID]) -> None:
        super().__init__(stream_id)
        self.key_ids = key_ids


class BatchRows:
    """The rows of a batch, gathered append by append. A rejected append leaves nothing here."""

    def __init__(self, log: LogEnd, limiters: LimiterTransaction) -> None:
        self._log = log
        self._limiters = limiters
        self._position = log.position
        self._events: list[EventRow] = []
        self._keys: list[RequestKeyRow] = []
        self._sealed: list[SealedRow] = []
        self._index: list[IndexRow] = []
        self._data_keys: list[KeyRow] = []
        self._steps: dict[_Key, Moved | Leased | None] = {}
        """`None`: done."""
        self._erased: list[tuple[UUID, str]] = []

    def parameters(self) -> list[Any]:
        """The values for the append statement, in its order."""
        rows = self._steps.values()
        return [
            self._log.recorded_at,
            json_text(self._events),
            json_text(self._keys),
            json_text([row for row in rows if isinstance(row, Leased)]),
            json_text([row for row in rows if isinstance(row, Moved)]),
            *_arrays([key for key, row in self._steps.items() if row is None], 2),
            json_text(self._sealed),
            json_text(self._index),
            *_arrays(self._erased, 2),
            json_text(self._data_keys),
        ]

    @property
    def frees_work(self) -> bool:
        """Whether a step is due now without a lease, as far as these rows show."""
        free = (row for row in self._steps.values() if row and not (isinstance(row, Leased) and row.owner))
        return any(row.due_at <= self._log.now for row in free)

    def take(self, proposal: Proposal) -> Appended | Exception:
        """Take the append, or reject it. Returns what its caller gets after the commit."""
        append, log = proposal.append, self._log
        if log.known and (before := log.known.get((append.stream_id, append.expected_version, append.causation_id))):
            return before
        actual, key = log.versions[append.stream_id], proposal.sealing.key
        if actual != append.expected_version:
            return WrongExpectedVersion(append.stream_id, append.expected_version, actual)
        if key is not None and key in log.keys:
            return KeyTaken(log.keys[key])
        if proposal.sealing.refused or proposal.sealing.subject in log.fenced:
            return SubjectErased(append.stream_id)
        if any(row.kek != log.kek for row in proposal.sealing.data_keys):
            return KeysRotated()
        if log.destroyed and (gone := proposal.sealing.key_ids & log.destroyed):
            return KeyDestroyed(append.stream_id, gone)
        wait = timedelta(0)
        if append.admission is not None:
            wait = self._limiters.sending_wait(append.admission.limiter)  # of this request: its admission changes it
            if denied := self._limiters.admit(append.admission):
                return AppendDenied(denied)
        if append.feedback is not None:
            self._limiters.observe(append.feedback)
        if key is not None:
            log.keys[key] = append.stream_id
            self._keys.append(RequestKeyRow(key, append.stream_id))
        self._take_events(proposal)
        self._take_personal(proposal)
        self._take_steps(append)
        version = log.versions[append.stream_id] = actual + len(append.events)
        return Appended(
            version=version,
            position=self._position,
            recorded_at=log.recorded_at,
            at=log.now,
            limiters=log.limiters,
            wait=wait,
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
                EventRow(
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

    def _take_personal(self, proposal: Proposal) -> None:
        self._sealed += proposal.sealing.rows
        self._data_keys += proposal.sealing.data_keys
        if proposal.sealing.index_row is not None:
            self._index.append(proposal.sealing.index_row)
        erased = {(proposal.append.stream_id, purpose) for event in proposal.append.events for purpose in event.erases}
        if erased:
            # The statement that deletes does not see what it inserts itself.
            self._sealed = [row for row in self._sealed if (row.stream_id, row.purpose) not in erased]
            self._index = [row for row in self._index if (row.stream_id, Purpose.CONTACT) not in erased]
            self._erased += erased

    def _take_steps(self, append: Append) -> None:
        changes, lease = append.steps, append.steps.lease
        owner = lease.owner if lease else None
        until = self._log.now + timedelta(milliseconds=lease.ms) if lease else None
        lead = self._lead(append)
        for due in changes.due:
            key, (due_at, back_ms) = (append.stream_id, due.step), _due(due, lead)
            earlier = self._steps.get(key)  # by an append before this one in the batch
            if due.step in changes.mine:
                self._steps[key] = Leased(*key, due_at, back_ms, owner, until)
            elif isinstance(earlier, Leased):
                self._steps[key] = replace(earlier, due_at=due_at, back_ms=back_ms)
            elif earlier is None and key in self._steps:
                self._steps[key] = Leased(*key, due_at, back_ms, None, None)  # its row is deleted no more
            else:
                self._steps[key] = Moved(*key, due_at, back_ms)
        for step in changes.done:
            self._steps[append.stream_id, step] = None

    def _lead(self, append: Append) -> timedelta:
        """How far the clock that dated the events is ahead of the database's: not at all, or by a step back."""
        now = self._log.now
        lead = max((event.at - now for event in append.events if event.at > now), default=timedelta(0))
        return lead if lead >= MIN_STEP else timedelta(0)


def _due(due: DueStep, lead: timedelta) -> tuple[datetime, int | None]:
    """When the step is due by the database's clock, and how far that was moved back. Only a provider dates an expiry."""
    if not lead or due.step is StepName.EXPIRE_TOKEN:
        return due.due_at, None
    back_ms = lead // timedelta(milliseconds=1)
    return due.due_at - timedelta(milliseconds=back_ms), back_ms


def _arrays(rows: Collection[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
