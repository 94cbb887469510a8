"""Erasures in PostgreSQL."""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver, reading, short_transaction
from guestledger.engine.domain.errors import UnderLegalHold
from guestledger.engine.log.recorded import began_at
from guestledger.engine.ports.erasures import ErasedEvent, Erasure, ErasureTarget

_COLUMNS = "id, subject, session, streams, whole, rows, key_ids, requested_by, reason, begun_at, completed_at"


class PostgresErasures:
    """See `ErasureStore`."""

    def __init__(self, engine: AsyncEngine, schema: str, personal: PersonalData) -> None:
        self._engine = engine
        self._s = quoted(schema)
        self._personal = personal
        self._select = f"SELECT {_COLUMNS} FROM {self._s}.erasures"

    async def ledger_id(self) -> UUID:
        """See `ErasureStore.ledger_id`."""
        return UUID(bytes=await self._personal.ledger_id())

    async def begin(self, target: ErasureTarget) -> Erasure | None:
        """See `ErasureStore.begin`."""
        has_keys = bool(await self._personal.vault.ids(target.subject))
        with reported():
            async with short_transaction(self._engine) as driver:
                # Every append that this one does not see reads the fence.
                await driver.execute(f"SELECT FROM {self._s}.head WHERE id = 1 FOR UPDATE")
                if (found := await self._open(driver, target)) is not None:
                    return found
                known = [
                    stream_id
                    for (stream_id,) in await driver.fetch(
                        f"SELECT stream_id FROM {self._s}.personal_index WHERE subject = $1::bytea ORDER BY 1",
                        target.subject,
                    )
                ]
                streams = _of_target(known, target)
                if not target.replayed:
                    await self._refuse_if_held(driver, target.subject, streams)
                if not streams and not has_keys and not target.replayed:
                    return None
                return await self._record(driver, target, streams, whole=set(known) <= set(streams))

    async def _refuse_if_held(self, driver: Driver, subject: bytes, streams: list[UUID]) -> None:
        # Under the log's lock, which a hold takes too: one of the two comes first.
        if await driver.fetchval(f"SELECT true FROM {self._s}.legal_holds WHERE subject = $1::bytea", subject):
            raise UnderLegalHold
        last = f"""
            SELECT DISTINCT ON (stream_id) stream_id, event_type FROM {self._s}.events
             WHERE stream_id = ANY($1::uuid[]) AND event_type IN ('LegalHoldPlaced', 'LegalHoldReleased')
             ORDER BY stream_id, version DESC"""
        held = await driver.fetch(
            f"SELECT stream_id FROM ({last}) AS last WHERE event_type = 'LegalHoldPlaced'", streams
        )
        if held:
            raise UnderLegalHold(tuple(stream_id for (stream_id,) in held))

    async def _open(self, driver: Driver, target: ErasureTarget) -> Erasure | None:
        if target.replayed:
            rows = await driver.fetch(f"{self._select} WHERE id = $1::uuid", target.id)
        else:
            rows = await driver.fetch(
                f"""{self._select} WHERE subject = $1::bytea AND session IS NOT DISTINCT FROM $2::uuid
                                     AND completed_at IS NULL""",
                *(target.subject, target.session),
            )
        return _erasure(rows[0]) if rows else None

    async def _record(self, driver: Driver, target: ErasureTarget, streams: list[UUID], *, whole: bool) -> Erasure:
        statement = f"""
            INSERT INTO {self._s}.erasures (id, subject, session, streams, whole, rows, key_ids, requested_by, reason, begun_at)
            SELECT $1::uuid, $2::bytea, $3::uuid, $4::uuid[], $5::bool, count(*), '{{}}', $6::text, $7::text, clock_timestamp()
              FROM {self._s}.personal WHERE stream_id = ANY($4::uuid[])
            RETURNING {_COLUMNS}"""
        return _erasure(
            await driver.fetchrow(
                statement,
                *(target.id, target.subject, target.session, streams, whole, target.requested_by, target.reason),
            )
        )

    async def has_begun(self, session: UUID) -> bool:
        """See `ErasureStore.has_begun`."""
        return bool(await self._fetch(f"SELECT FROM {self._s}.erasures WHERE $1::uuid = ANY(streams) LIMIT 1", session))

    async def destroy_keys(self, erasure: Erasure) -> Erasure:
        """See `ErasureStore.destroy_keys`."""
        ids = await self._personal.vault.ids(erasure.subject) if erasure.whole else []
        if not ids:
            return erasure
        with reported():
            async with short_transaction(self._engine) as driver:
                await driver.execute(
                    f"""INSERT INTO {self._s}.destroyed_keys (key_id, destroyed_at)
                        SELECT key_id, clock_timestamp() FROM unnest($1::uuid[]) AS key_id ON CONFLICT DO NOTHING""",
                    ids,
                )
                row = await driver.fetchrow(
                    f"""UPDATE {self._s}.erasures
                           SET key_ids = ARRAY(SELECT DISTINCT key_id FROM unnest(key_ids || $2::uuid[]) AS key_id)
                         WHERE id = $1::uuid RETURNING {_COLUMNS}""",
                    *(erasure.id, ids),
                )
        await self._personal.vault.destroy(ids)
        return _erasure(row)

    async def destroy_left_keys(self) -> None:
        """See `ErasureStore.destroy_left_keys`."""
        ids = [key_id for (key_id,) in await self._fetch(f"SELECT key_id FROM {self._s}.destroyed_keys WHERE NOT gone")]
        if ids:
            await self._personal.vault.destroy(ids)
            await self._fetch(f"UPDATE {self._s}.destroyed_keys SET gone = true WHERE key_id = ANY($1::uuid[])", ids)

    async def complete(self, erasure: UUID) -> Erasure:
        """See `ErasureStore.complete`."""
        with reported():
            async with short_transaction(self._engine) as driver:
                for table in ("personal", "personal_index"):
                    await driver.execute(
                        f"""DELETE FROM {self._s}.{table} WHERE stream_id IN (
                                SELECT unnest(streams) FROM {self._s}.erasures WHERE id = $1::uuid)""",
                        erasure,
                    )
                await driver.execute(
                    f"""UPDATE {self._s}.erasures SET completed_at = clock_timestamp()
                         WHERE id = $1::uuid AND completed_at IS NULL""",
                    erasure,
                )
                return _erasure(await driver.fetchrow(f"{self._select} WHERE id = $1::uuid", erasure))

    async def find(self, erasure: UUID) -> Erasure | None:
        """See `ErasureStore.find`."""
        rows = await self._fetch(f"{self._select} WHERE id = $1::uuid", erasure)
        return _erasure(rows[0]) if rows else None

    async def latest(self, subject: bytes) -> Erasure | None:
        """See `ErasureStore.latest`."""
        rows = await self._fetch(
            f"{self._select} WHERE subject = $1::bytea AND session IS NULL ORDER BY begun_at DESC LIMIT 1", subject
        )
        return _erasure(rows[0]) if rows else None

    async def unfinished(self) -> list[Erasure]:
        """See `ErasureStore.unfinished`."""
        return [
            _erasure(row) for row in await self._fetch(f"{self._select} WHERE completed_at IS NULL ORDER BY begun_at")
        ]

    async def events(self, erasure: Erasure) -> list[ErasedEvent]:
        """See `ErasureStore.events`."""
        rows = await self._fetch(
            f"""SELECT stream_id, position, encode(leaf_hash, 'hex') FROM {self._s}.events
                 WHERE stream_id = ANY($1::uuid[]) AND event_type = 'GuestErased' AND data ->> 'erasure' = $2::text
                 ORDER BY position""",
            *(list(erasure.streams), str(erasure.id)),
        )
        return [ErasedEvent(session=stream_id, position=position, leaf_hash=leaf) for stream_id, position, leaf in rows]

    async def done(self, ids: Collection[UUID]) -> set[UUID]:
        """See `ErasureStore.done`."""
        # A process that ended between the journal and the database leaves an open erasure, but no data.
        rows = await self._fetch(
            f"""SELECT id FROM {self._s}.erasures AS e WHERE id = ANY($1::uuid[])
                   AND (completed_at IS NOT NULL
                        OR NOT EXISTS (SELECT FROM {self._s}.personal WHERE stream_id = ANY(e.streams)))""",
            list(ids),
        )
        return {row[0] for row in rows}

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        with reported():
            async with reading(self._engine) as driver:
                return list(await driver.fetch(statement, *values))


def _of_target(known: Iterable[UUID], target: ErasureTarget) -> list[UUID]:
    if target.session is not None:
        return [target.session]
    return [stream_id for stream_id in known if target.until is None or began_at(stream_id) <= target.until]


def _erasure(row: Any) -> Erasure:
    return Erasure(**{**row, "streams": tuple(row["streams"]), "key_ids": tuple(row["key_ids"])})
