"""Verification of the log: every event is read, and its leaf hash computed again."""

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.log.reader import fetch_range, leaf_hash_of
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading
from guestledger.engine.log.verification import LogVerification

BATCH = 2_000
MAX_SHOWN = 10


class LogVerifier:
    """Verifies the log of one ledger. It is append-only, so its batches need no common snapshot."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = schema

    async def verify(
        self, since: datetime | None, until: datetime | None, advanced: Callable[[int], None]
    ) -> LogVerification:
        """See `LogVerifier.verify`."""
        first, last = await self._bounds(since, until)
        while True:
            detached = await self._detached()
            found = await self._read(first, last, detached, advanced)
            if await self._detached() == detached:  # else a month went or came while it was read
                break
        whole = since is None and until is None
        return replace(found, unaccounted=found.detached - sum(one["events"] for one in detached)) if whole else found

    async def _read(
        self, first: int, last: int, detached: Sequence[Any], advanced: Callable[[int], None]
    ) -> LogVerification:
        part = _Part(first, [(one["first_position"], one["last_position"]) for one in detached])
        after = first - 1
        while after < last:
            with reported():
                async with reading(self._engine) as driver:
                    rows = await fetch_range(driver, self._schema, after=after, upto=last, limit=BATCH)
            part.add(rows)
            if len(rows) < BATCH:
                break
            after = rows[-1]["position"]
            advanced(after)
        part.end(last)
        return part.found()

    async def _bounds(self, since: datetime | None, until: datetime | None) -> tuple[int, int]:
        """The first and last position of the part."""
        s = quoted(self._schema)
        # Times never run against positions; each batch of appends has one time.
        statement = f"""
            SELECT coalesce((SELECT max(position) + 1 FROM {s}.batches WHERE recorded_at < $1::timestamptz), 0) AS first,
                   coalesce((SELECT max(position) FROM {s}.batches
                              WHERE $2::timestamptz IS NULL OR recorded_at < $2::timestamptz), -1) AS last"""
        with reported():
            async with reading(self._engine) as driver:
                [(first, last)] = await driver.fetch(statement, since, until)
                return first, last

    async def _detached(self) -> list[Any]:
        statement = f"""
            SELECT first_position, last_position, events FROM {quoted(self._schema)}.detached_partitions
             WHERE first_position IS NOT NULL ORDER BY month"""
        with reported():
            async with reading(self._engine) as driver:
                return list(await driver.fetch(statement))


class _Part:
    """A part of the log that is read in order."""

    def __init__(self, first: int, detached: Sequence[tuple[int, int]]) -> None:
        self._next = first
        self._spans = detached
        self._digest = sha256()
        self._ends: list[Any] = []
        """The first and the last row."""
        self._events = self._detached = 0
        self._changed: list[int] = []
        self._missing: list[int] = []

    def add(self, rows: Sequence[Any]) -> None:
        """Take in the next rows."""
        for row in rows:
            position, leaf_hash = row["position"], leaf_hash_of(row)
            self.end(position - 1)
            backwards = bool(self._ends) and row["recorded_at"] < self._ends[-1]["recorded_at"]
            if (leaf_hash != row["leaf_hash"] or backwards) and len(self._changed) < MAX_SHOWN:
                self._changed.append(position)
            self._digest.update(position.to_bytes(8, "big") + leaf_hash)
            self._ends[1:] = [row]
            self._next = position + 1
            self._events += 1

    def end(self, last: int) -> None:
        """No event comes up to `last`."""
        for position in range(self._next, last + 1):
            if any(first <= position <= end for first, end in self._spans):
                self._detached += 1
            elif len(self._missing) < MAX_SHOWN:
                self._missing.append(position)
            else:
                break
        self._next = max(self._next, last + 1)

    def found(self) -> LogVerification:
        """What was found."""
        first, last = (self._ends[0], self._ends[-1]) if self._ends else (None, None)
        return LogVerification(
            events=self._events,
            first_position=first and first["position"],
            last_position=last and last["position"],
            first_recorded_at=first and first["recorded_at"],
            last_recorded_at=last and last["recorded_at"],
            detached=self._detached,
            unaccounted=0,
            digest=self._digest.hexdigest(),
            changed=tuple(self._changed),
            missing=tuple(self._missing),
        )
