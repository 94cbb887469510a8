"""The key vault in PostgreSQL: data keys, wrapped by a key-encryption key. It may be a database of its own."""

import asyncio
import os
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID, uuid4

from cachetools import LRUCache

from guestledger.adapters.crypto.sealing import KEY_BYTES, Aes256Key
from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, KeyRefused
from guestledger.adapters.postgres.personal.key_ring import KeyRing, WrongKey
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.vault_database import VAULT, VaultDatabase
from guestledger.adapters.postgres.personal.vault_statements import INDEX, VaultStatements
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.domain.personal import Purpose, SecretBytes

MAX_CACHED = 10_000
_Owner = tuple[bytes, str]


class VaultEmpty(ServiceError):
    """The ledger holds personal data, and the vault none of its keys."""

    def __init__(self) -> None:
        super().__init__(
            VAULT,
            Cause.NOT_READY,
            "it holds no keys of this ledger, which has personal data: check GUESTLEDGER_VAULT_URL, or restore the vault",
        )
        self.args = ()

    def __str__(self) -> str:
        return f"the {self.service} cannot be used: {self.detail}"


class PostgresKeyVault:
    """See `KeyVault`. Callers that want keys at once share one statement.

    The key that wraps the index key wraps all new keys; a rotation begins with the index key. A vault beside the log need
    not wait for the disk: the commit of the events that need a key also writes the key.
    """

    def __init__(self, database: VaultDatabase, ring: KeyRing, facts: LedgerFacts) -> None:
        self._database = database
        self._ring = ring
        self._facts = facts
        self._statements = VaultStatements(database.schema, durable=database.apart)
        self._cached: LRUCache[UUID, Aes256Key] = LRUCache(MAX_CACHED)
        self._owned: LRUCache[_Owner, Aes256Key] = LRUCache(MAX_CACHED)
        self._wanted: dict[_Owner, asyncio.Future[Aes256Key]] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._index_key: bytes | None = None
        self._current: KeyEncryptionKey | None = None

    async def prepare(self, *, make: bool) -> None:
        """Check that this process can open the vault's keys. With `make`, an empty ledger gets its first key.

        Raises `WrongKey`, `VaultEmpty`, `ServiceError`.
        """
        if make or await self._database.fetch(self._statements.read_index):
            await self._load_index()

    async def check(self) -> None:
        """See `KeyVault.check`."""
        if self._database.apart:
            await self._database.check()

    async def key_of(self, subject: bytes, purpose: Purpose) -> Aes256Key:
        """See `KeyVault.key_of`."""
        owner = subject, purpose
        if (known := self._owned.get(owner)) is not None:
            return known
        waiting = self._wanted.get(owner)
        if waiting is None:
            waiting = self._wanted[owner] = asyncio.get_running_loop().create_future()
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_wanted())
        return await asyncio.shield(waiting)

    async def index_key(self) -> bytes:
        """See `KeyVault.index_key`."""
        if self._index_key is None:
            await self._load_index()
            assert self._index_key is not None
        return self._index_key

    async def keys(self, ids: Collection[UUID]) -> Mapping[UUID, Aes256Key]:
        """See `KeyVault.keys`."""
        found = {key_id: self._cached[key_id] for key_id in ids if key_id in self._cached}
        if missing := [key_id for key_id in ids if key_id not in found]:
            for row in await self._database.fetch(self._statements.read, missing):
                found[row["key_id"]] = await self._unwrapped(row)
        return found

    async def destroy(self, subject: bytes, purpose: Purpose | None = None) -> int:
        """See `KeyVault.destroy`. Other processes may keep a copy in memory until they end."""
        destroyed = await self._database.fetch(self._statements.destroy, subject, purpose)
        self.forget([key_id for (key_id,) in destroyed])
        return len(destroyed)

    def forget(self, ids: Collection[UUID]) -> None:
        """See `KeyVault.forget`."""
        for key_id in ids:
            self._cached.pop(key_id, None)
        for owner in [owner for owner, key in self._owned.items() if key.id in ids]:
            del self._owned[owner]

    async def close(self) -> None:
        """Wait for keys that are being made."""
        if self._fetching is not None:
            await asyncio.wait((self._fetching,))

    async def _load_index(self) -> KeyEncryptionKey:
        """Read the index key, and which key wraps new ones. A ledger without personal data gets an index key."""
        rows = await self._database.fetch(self._statements.read_index)
        if not rows:
            if self._index_key is not None or await self._facts.uses_keys():
                raise VaultEmpty
            await self._make_index()
            rows = await self._database.fetch(self._statements.read_index)
        [row] = rows
        self._index_key = SecretBytes((await self._unwrapped(row)).secret)
        self._current = await self._ring.get(row["kek"])
        return self._current

    async def _make_index(self) -> None:
        newest, key_id = await self._ring.newest(), uuid4()
        wrapped = newest.key.wrap(os.urandom(KEY_BYTES), await self._place(key_id, b"", INDEX))
        source = self._ring.source if newest.wrapped else None
        await self._database.fetch(
            self._statements.make_index, key_id, wrapped, newest.key.id, source, newest.wrapped or None
        )

    async def _fetch_wanted(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                await self._answer(wanted)
        finally:
            self._fetching = None

    async def _answer(self, wanted: dict[_Owner, asyncio.Future[Aes256Key]]) -> None:
        try:
            current = self._current or await self._load_index()
            proposed, made = await self._proposed(wanted, current)
            rows = await self._database.fetch(self._statements.get_or_make, *proposed)
            found = {
                (row["subject"], row["purpose"]): made.get(row["key_id"]) or await self._unwrapped(row) for row in rows
            }
        except Exception as error:  # noqa: BLE001 - whatever it is, its callers have to get it
            for waiting in wanted.values():
                waiting.set_exception(error)
                waiting.exception()  # its callers may be gone
            return
        for owner, waiting in wanted.items():
            if owner in found:
                key = self._owned[owner] = self._cached[found[owner].id] = found[owner]
                waiting.set_result(key)
            else:  # another process made it at the same moment, or the keys are being rotated
                self._wanted[owner] = waiting
                self._current = None

    async def _proposed(
        self, owners: Collection[_Owner], current: KeyEncryptionKey
    ) -> tuple[list[list[Any]], dict[UUID, Aes256Key]]:
        columns: list[list[Any]] = [[], [], [], []]
        made = {}
        for subject, purpose in sorted(owners):  # in one order, or two processes could wait for each other
            key_id, secret = uuid4(), os.urandom(KEY_BYTES)
            wrapped = current.wrap(secret, await self._place(key_id, subject, purpose))
            made[key_id] = Aes256Key(key_id, secret)
            for column, value in zip(columns, (key_id, subject, purpose, wrapped), strict=True):
                column.append(value)
        return [*columns, [current.id]], made

    async def _unwrapped(self, row: Any) -> Aes256Key:
        key_id = row["key_id"]
        if (known := self._cached.get(key_id)) is not None:
            return known
        kek = await self._ring.get(row["kek"])
        key = self._cached[key_id] = Aes256Key(
            key_id, unwrapped(kek, row, await self._place(key_id, row["subject"], row["purpose"]))
        )
        return key

    async def _place(self, key_id: UUID, subject: bytes, purpose: str) -> bytes:
        return place(await self._facts.id(), key_id, subject, purpose)


def place(ledger_id: bytes, key_id: UUID, subject: bytes, purpose: str) -> bytes:
    """What a wrapped key is bound to: it unwraps there only."""
    return b"\x1f".join((ledger_id + key_id.bytes, purpose.encode(), subject))


def unwrapped(kek: KeyEncryptionKey, row: Any, bound_to: bytes) -> bytes:
    """The secret in a row of `data_keys`. Raises `WrongKey`."""
    try:
        return kek.unwrap(row["wrapped"], bound_to)
    except KeyRefused:
        raise WrongKey("it holds keys of another ledger, or they were changed: check GUESTLEDGER_VAULT_URL") from None
