"""Lists the key-encryption keys of a vault, and rotates to a new one: all data keys are wrapped again, no event is touched."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, ServiceKey
from guestledger.adapters.postgres.personal.key_ring import KeyRing
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.vault import VaultEmpty, place, unwrapped
from guestledger.adapters.postgres.personal.vault_database import VaultDatabase
from guestledger.adapters.postgres.personal.vault_statements import RotationStatements, VaultStatements

BATCH = 1_000
OWN_SOURCE = "settings"


class WrappingKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key-encryption key, and how many keys it wraps."""

    id: str
    source: str
    """`settings`, or the key service that made it."""
    data_keys: int
    current: bool
    """Whether it wraps new data keys."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """What a rotation came to."""

    key: str
    """The key-encryption key that wraps everything now."""
    rewrapped: int


class KeyRotation:
    """The key-encryption keys of one vault. `target` is the key to rotate to, instead of the newest of the settings."""

    def __init__(
        self, database: VaultDatabase, ring: KeyRing, facts: LedgerFacts, target: KeyEncryptionKey | None = None
    ) -> None:
        self._database = database
        self._ring = ring
        self._facts = facts
        self._target = target
        self._read_index = VaultStatements(database.schema, durable=True).read_index
        self._statements = RotationStatements(database.schema)
        if target is not None:
            ring.add(target)

    @property
    def apart(self) -> bool:
        """Whether the vault is a database of its own."""
        return self._database.apart

    async def list(self) -> Sequence[WrappingKey]:
        """The key-encryption keys in use, the current one first. Raises `ServiceError`."""
        rows = await self._database.fetch(self._statements.count)
        return [
            WrappingKey(id=kek, source=source or OWN_SOURCE, data_keys=keys, current=current)
            for kek, source, keys, current in rows
        ]

    async def rotate(self, began: Callable[[int], None], advanced: Callable[[int], None]) -> Rotation:
        """Wrap all data keys with the new key, in batches, while workers run. Continues a rotation that was interrupted.

        `began` gets how many keys are to be wrapped, `advanced` how many more have been. Raises `WrongKey`, `ServiceError`.
        """
        found = await self.list()
        for one in found:
            await self._ring.get(one.id)  # before anything is changed: all of them are needed
        began(sum(one.data_keys for one in found))
        target, switched = await self._begin(found)
        advanced(switched + sum(one.data_keys for one in found if one.id == target.id))
        rewrapped = switched + await self._rewrap_all(target, advanced)
        async with self._database.transaction() as driver:
            await driver.execute(self._statements.lock)
            await driver.execute(self._statements.forget_unused)
        return Rotation(key=target.id, rewrapped=rewrapped)

    async def _begin(self, found: Sequence[WrappingKey]) -> tuple[KeyEncryptionKey, int]:
        """Wrap the index key with the new key: from then on it also wraps new data keys. Returns it, and how many keys changed."""
        current = next((one for one in found if one.current), None)
        if current is None:
            raise VaultEmpty
        unfinished = len(found) > 1
        if self._target is not None:
            wanted = ServiceKey(self._target, b"")
        elif self._ring.source == current.source and unfinished:
            return await self._ring.get(current.id), 0
        else:
            wanted = await self._ring.newest()
        if wanted.key.id == current.id:
            return wanted.key, 0
        await self._switch(wanted)
        return wanted.key, 1

    async def _switch(self, wanted: ServiceKey) -> None:
        async with self._database.transaction() as driver:
            # Waits for the statements and appends that are making keys: none is made under the old key after this commit.
            if not self._database.apart:
                await driver.execute(self._statements.lock_log)
            await driver.execute(self._statements.lock)
            [row] = await driver.fetch(self._read_index)
            key_id, wrapped = await self._rewrapped(row, wanted.key)
            await driver.fetch(self._statements.rewrap, [key_id], [wrapped], wanted.key.id)
            if wanted.wrapped:
                await driver.fetch(self._statements.store, wanted.key.id, self._ring.source, wanted.wrapped)

    async def _rewrap_all(self, target: KeyEncryptionKey, advanced: Callable[[int], None]) -> int:
        total, subject, purpose = 0, b"", ""
        while rows := await self._database.fetch(self._statements.next, target.id, subject, purpose, BATCH):
            rewrapped = [await self._rewrapped(row, target) for row in rows]
            key_ids, wrapped = (list(column) for column in zip(*rewrapped, strict=True))
            # A key that was destroyed meanwhile stays destroyed.
            done = await self._database.fetch(self._statements.rewrap, key_ids, wrapped, target.id)
            subject, purpose = rows[-1]["subject"], rows[-1]["purpose"]
            total += len(done)
            advanced(len(rows))
        return total

    async def _rewrapped(self, row: Any, target: KeyEncryptionKey) -> tuple[Any, bytes]:
        bound_to = place(await self._facts.id(), row["key_id"], row["subject"], row["purpose"])
        secret = unwrapped(await self._ring.get(row["kek"]), row, bound_to)
        return row["key_id"], target.wrap(secret, bound_to)
