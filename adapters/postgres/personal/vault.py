"""The key vault in PostgreSQL: data keys, wrapped by a key-encryption key. It may be a database of its own."""

import asyncio
import os
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID, uuid4

from cachetools import LRUCache
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.crypto.sealing import KEY_BYTES, Aes256Key
from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, KeyRefused
from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import CredentialsRefused
from guestledger.engine.domain.personal import Purpose

MAX_CACHED = 10_000
INDEX = "index"
"""The purpose of the key that subjects and addresses are hashed under. It belongs to no subject."""
_Owner = tuple[bytes, str]


class PostgresKeyVault:
    """See `KeyVault`. Callers that want keys at once share one statement.

    With `beside_the_log`, a key is as durable as the events that need it: their commit also writes it to disk.
    """

    def __init__(self, engine: AsyncEngine, schema: str, kek: KeyEncryptionKey, *, beside_the_log: bool = True) -> None:
        self._engine = engine
        self._kek = kek
        self._cached: LRUCache[UUID, Aes256Key] = LRUCache(MAX_CACHED)
        self._owned: LRUCache[_Owner, Aes256Key] = LRUCache(MAX_CACHED)
        self._wanted: dict[_Owner, asyncio.Future[Aes256Key]] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._index_key: bytes | None = None
        s = quoted(schema)
        relaxed = ", set_config('synchronous_commit', 'off', true)" if beside_the_log else ""
        self._get_or_make = f"""
            WITH wanted AS (
                SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::bytea[], $5::text[])
                    AS w(key_id, subject, purpose, wrapped, kek)
            ), made AS (
                INSERT INTO {s}.data_keys (key_id, subject, purpose, wrapped, kek)
                SELECT * FROM wanted
                ON CONFLICT (subject, purpose) DO NOTHING
                RETURNING key_id, subject, purpose, wrapped
            )
            SELECT key_id, subject, purpose, wrapped{relaxed} FROM made
             UNION ALL
            SELECT k.key_id, subject, purpose, k.wrapped{relaxed}
              FROM {s}.data_keys AS k JOIN wanted USING (subject, purpose)"""
        self._read = f"SELECT key_id, subject, purpose, wrapped FROM {s}.data_keys WHERE key_id = ANY($1::uuid[])"
        self._read_index_key = f"""
            SELECT key_id, subject, purpose, wrapped FROM {s}.data_keys WHERE subject = '' AND purpose = '{INDEX}'"""
        self._destroy = f"""
            DELETE FROM {s}.data_keys WHERE subject = $1::bytea AND purpose = coalesce($2::text, purpose)
            RETURNING key_id"""

    async def key_of(self, subject: bytes, purpose: Purpose) -> Aes256Key:
        """See `KeyVault.key_of`."""
        return await self._key((subject, purpose))

    async def index_key(self) -> bytes:
        """See `KeyVault.index_key`."""
        if self._index_key is None:
            # Who only reads may not make it.
            found = await self._fetch(self._read_index_key)
            key = self._unwrapped(found[0]) if found else await self._key((b"", INDEX))
            self._index_key = key.secret
        return self._index_key

    async def keys(self, ids: Collection[UUID]) -> Mapping[UUID, Aes256Key]:
        """See `KeyVault.keys`."""
        found = {key_id: self._cached[key_id] for key_id in ids if key_id in self._cached}
        if missing := [key_id for key_id in ids if key_id not in found]:
            for row in await self._fetch(self._read, missing):
                found[row["key_id"]] = self._unwrapped(row)
        return found

    async def destroy(self, subject: bytes, purpose: Purpose | None = None) -> int:
        """See `KeyVault.destroy`. Other processes may keep a copy in memory until they end."""
        destroyed = await self._fetch(self._destroy, subject, purpose)
        for (key_id,) in destroyed:
            self._cached.pop(key_id, None)
        for kept in Purpose if purpose is None else (purpose,):
            self._owned.pop((subject, kept), None)
        return len(destroyed)

    async def close(self) -> None:
        """Wait for keys that are being made."""
        if self._fetching is not None:
            await asyncio.wait((self._fetching,))

    async def _key(self, owner: _Owner) -> Aes256Key:
        if (known := self._owned.get(owner)) is not None:
            return known
        waiting = self._wanted.get(owner)
        if waiting is None:
            waiting = self._wanted[owner] = asyncio.get_running_loop().create_future()
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_wanted())
        return await asyncio.shield(waiting)

    async def _fetch_wanted(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                await self._answer(wanted)
        finally:
            self._fetching = None

    async def _answer(self, wanted: dict[_Owner, asyncio.Future[Aes256Key]]) -> None:
        try:
            rows = await self._fetch(self._get_or_make, *self._proposed(wanted))
            found = {(row["subject"], row["purpose"]): self._unwrapped(row) for row in rows}
        except Exception as error:  # noqa: BLE001 - whatever it is, its callers have to get it
            for waiting in wanted.values():
                waiting.set_exception(error)
                waiting.exception()  # its callers may be gone
            return
        for owner, waiting in wanted.items():
            if owner in found:
                self._owned[owner] = found[owner]
                waiting.set_result(found[owner])
            else:  # another process made it at the same moment: the next statement sees it
                self._wanted[owner] = waiting

    def _proposed(self, owners: Collection[_Owner]) -> list[list[Any]]:
        columns: list[list[Any]] = [[], [], [], [], []]
        for subject, purpose in sorted(owners):  # in one order, or two processes could wait for each other
            key_id = uuid4()
            wrapped = self._kek.wrap(os.urandom(KEY_BYTES), _place(key_id, subject, purpose))
            for column, value in zip(columns, (key_id, subject, purpose, wrapped, self._kek.id), strict=True):
                column.append(value)
        return columns

    def _unwrapped(self, row: Any) -> Aes256Key:
        key_id = row["key_id"]
        if (known := self._cached.get(key_id)) is not None:
            return known
        try:
            secret = self._kek.unwrap(row["wrapped"], _place(key_id, row["subject"], row["purpose"]))
        except KeyRefused:
            raise CredentialsRefused("key vault", Cause.KEY_REFUSED, f"key-encryption key {self._kek.id}") from None
        key = self._cached[key_id] = Aes256Key(key_id, secret)
        return key

    async def _fetch(self, statement: str, *values: Any) -> Any:
        with reported():
            async with reading(self._engine) as driver:
                return await driver.fetch(statement, *values)


def _place(key_id: UUID, subject: bytes, purpose: str) -> bytes:
    return b"\x1f".join((key_id.bytes, purpose.encode(), subject))
