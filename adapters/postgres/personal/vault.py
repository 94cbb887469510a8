"""The key vault in PostgreSQL: data keys, wrapped by a key-encryption key. It may be a database of its own."""

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import astuple
from uuid_utils.compat import uuid7

from guestledger.adapters.crypto.hashing import KeyedHash
from guestledger.adapters.crypto.sealing import KEY_BYTES, Aes256Key
from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, KeyRefused
from guestledger.adapters.postgres.personal.key_ring import KeyRing, WrongKey
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.recent import Recent
from guestledger.adapters.postgres.personal.vault_database import VaultDatabase
from guestledger.adapters.postgres.personal.vault_statements import INDEX, VaultStatements
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.ports.key_vault import KEY_VAULT

logger = logging.getLogger("guestledger")

_Owner = tuple[bytes, str]


class KeyRow(Struct, frozen=True, gc=False):
    """A row of `data_keys`."""

    key_id: UUID
    subject: bytes
    purpose: str
    wrapped: bytes
    kek: str


class VaultEmpty(ServiceError):
    """The ledger holds personal data, and the vault none of its keys."""

    def __init__(self) -> None:
        super().__init__(
            KEY_VAULT,
            Cause.NOT_READY,
            "it holds no keys of this ledger, which has personal data: check GUESTLEDGER_VAULT_URL, or restore the vault",
        )
        self.args = ()

    def __str__(self) -> str:
        return f"the {self.service} cannot be used: {self.detail}"


class PostgresKeyVault:
    """See `KeyVault`. Callers that want keys at once share one statement.

    The key that wraps the index key wraps all new keys; a rotation begins with the index key. In a vault beside the log, new
    keys need not wait for the disk: the commit of the events that need a key also writes the key.
    """

    def __init__(self, database: VaultDatabase, ring: KeyRing, facts: LedgerFacts) -> None:
        self._database = database
        self._ring = ring
        self._facts = facts
        self._statements = VaultStatements(database.schema, durable=database.apart)
        self._cached: Recent[UUID, Aes256Key] = Recent()
        self._owned: Recent[_Owner, Aes256Key] = Recent()
        self._refused: Recent[UUID, bool] = Recent()
        self._wanted: dict[_Owner, asyncio.Future[Aes256Key]] = {}
        self._fetching: asyncio.Task[None] | None = None
        self.hashing: KeyedHash | None = None
        self._current: KeyEncryptionKey | None = None
        self._ledger_id = b""

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
        await asyncio.wait((waiting,))  # no `shield`: see `SingleFlight`
        return waiting.result()

    def cached(self, subject: bytes, purpose: Purpose) -> Aes256Key | None:
        """See `KeyVault.cached`."""
        return self._owned.get((subject, purpose))

    def propose(self, subject: bytes, purposes: Iterable[Purpose]) -> Sequence[KeyRow]:
        """New keys of a subject that has none, for the append that brings it; none if the vault is not beside the log.

        Proposed again, a subject gets the same keys: the append before may have been committed.
        """
        if self._database.apart or self._current is None:
            return ()
        return [self._proposed((subject, purpose), self._current) for purpose in purposes]

    async def refresh(self) -> None:
        """Read again which key wraps new keys. Raises `WrongKey`, `ServiceError`."""
        await self._load_index()

    async def index_key(self) -> KeyedHash:
        """See `KeyVault.index_key`."""
        if self.hashing is None:
            await self._load_index()
            assert self.hashing is not None
        return self.hashing

    async def keys(self, ids: Collection[UUID]) -> Mapping[UUID, Aes256Key]:
        """See `KeyVault.keys`."""
        found = {key_id: self._cached[key_id] for key_id in ids if key_id in self._cached}
        if missing := [key_id for key_id in ids if key_id not in found]:
            for row in await self._database.fetch(self._statements.read, missing):
                found[row["key_id"]] = await self._unwrapped(row)
        return found

    async def keys_to_seal(self, ids: Collection[UUID]) -> Mapping[UUID, Aes256Key]:
        """See `KeyVault.keys_to_seal`."""
        found = {key_id: key for key_id in ids if (key := self._cached.get(key_id)) is not None}
        if missing := [key_id for key_id in ids if key_id not in found]:
            for row in await self._database.fetch(self._statements.read_with_others, missing):
                # One that was not asked for must not keep the others from being read.
                with suppress(ServiceError) if row["key_id"] not in ids else self._noted(row["key_id"]):
                    found[row["key_id"]] = await self._unwrapped(row)
        for key in found.values():
            self._owned.keep((key.subject, key.purpose), key)
        return found

    @contextmanager
    def _noted(self, key_id: UUID) -> Iterator[None]:
        """A key that does not unwrap here counts as missing, and is logged once: it must not stop the sessions beside it."""
        try:
            yield
        except WrongKey as error:
            if self._refused.get(key_id) is None:
                self._refused.keep(key_id, True)
                logger.error(  # noqa: TRY400 - it says it all
                    "data key %s cannot be used, so its sessions wait: %s", key_id, error.detail
                )

    async def ids(self, subject: bytes, purpose: Purpose | None = None) -> list[UUID]:
        """See `KeyVault.ids`."""
        return [key_id for (key_id,) in await self._database.fetch(self._statements.read_ids, subject, purpose)]

    async def destroy(self, ids: Collection[UUID]) -> None:
        """See `KeyVault.destroy`."""
        await self._database.fetch(self._statements.destroy, list(ids))
        self.forget(ids)

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
            if self.hashing is not None or await self._facts.uses_keys():
                raise VaultEmpty
            await self._make_index()
            rows = await self._database.fetch(self._statements.read_index)
        [row] = rows
        self._ledger_id = await self._facts.id()
        self.hashing = KeyedHash((await self._unwrapped(row)).secret)
        self._current = await self._ring.get(row["kek"])
        return self._current

    async def _make_index(self) -> None:
        newest = await self._ring.newest()
        row = _new_row((b"", INDEX), newest.key, await self._facts.id())
        source = self._ring.source if newest.wrapped else None
        await self._database.fetch(self._statements.make_index, *astuple(row), source, newest.wrapped or None)

    async def _fetch_wanted(self) -> None:
        try:
            while self._wanted:
                await self._answer(dict(self._wanted))
        finally:
            self._fetching = None

    async def _answer(self, wanted: dict[_Owner, asyncio.Future[Aes256Key]]) -> None:
        try:
            current = self._current or await self._load_index()
            # In one order, or two processes could wait for each other.
            rows = [_new_row(owner, current, self._ledger_id) for owner in sorted(wanted)]
            columns = [list(column) for column in zip(*map(astuple, rows), strict=True)]
            found = await self._database.fetch(self._statements.get_or_make, *columns)
            keys = {(row["subject"], row["purpose"]): await self._unwrapped(row) for row in found}
        except Exception as error:  # noqa: BLE001 - whatever it is, its callers have to get it
            for owner, waiting in wanted.items():
                del self._wanted[owner]
                waiting.set_exception(error)
                waiting.exception()  # its callers may be gone
            return
        for owner, waiting in wanted.items():
            # Until it has its key, an owner stays in `_wanted`: who asks meanwhile waits for the same.
            if owner in keys:
                del self._wanted[owner]
                waiting.set_result(self._keep(owner, keys[owner]))
            else:  # another process made it at the same moment, or the keys are being rotated
                self._current = None

    def _proposed(self, owner: _Owner, current: KeyEncryptionKey) -> KeyRow:
        key = self._owned.get(owner)
        if key is None:
            key = self._keep(owner, Aes256Key(uuid7(), os.urandom(KEY_BYTES), *owner))
        bound_to = place(self._ledger_id, key.id, *owner)
        return KeyRow(key.id, *owner, current.wrap(key.secret, bound_to), current.id)

    def _keep(self, owner: _Owner, key: Aes256Key) -> Aes256Key:
        return self._owned.keep(owner, self._cached.keep(key.id, key))

    async def _unwrapped(self, row: Any) -> Aes256Key:
        key_id = row["key_id"]
        if (known := self._cached.get(key_id)) is not None:
            return known
        kek = await self._ring.get(row["kek"])
        bound_to = place(await self._facts.id(), key_id, row["subject"], row["purpose"])
        return self._cached.keep(
            key_id, Aes256Key(key_id, unwrapped(kek, row, bound_to), row["subject"], row["purpose"])
        )


def _new_row(owner: _Owner, kek: KeyEncryptionKey, ledger_id: bytes) -> KeyRow:
    key_id = uuid7()  # a new row lies at the end of its index
    return KeyRow(key_id, *owner, kek.wrap(os.urandom(KEY_BYTES), place(ledger_id, key_id, *owner)), kek.id)


def place(ledger_id: bytes, key_id: UUID, subject: bytes, purpose: str) -> bytes:
    """What a wrapped key is bound to: it unwraps there only."""
    return ledger_id + key_id.bytes + purpose.encode() + b"\x1f" + subject


def unwrapped(kek: KeyEncryptionKey, row: Any, bound_to: bytes) -> bytes:
    """The secret in a row of `data_keys`. Raises `WrongKey`."""
    try:
        return kek.unwrap(row["wrapped"], bound_to)
    except KeyRefused:
        raise WrongKey("it holds keys of another ledger, or they were changed: check GUESTLEDGER_VAULT_URL") from None
