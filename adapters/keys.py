"""A ledger's key-encryption keys and key vault, as its settings say."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, KeyService, keys_of_file, keys_of_text, made_key_file
from guestledger.adapters.database import data_dir, locate_database
from guestledger.adapters.postgres.admin.revision import check_current
from guestledger.adapters.postgres.errors import NotAllowed
from guestledger.adapters.postgres.personal.key_ring import KeyRing
from guestledger.adapters.postgres.personal.key_rotation import KeyRotation
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.vault import PostgresKeyVault
from guestledger.adapters.postgres.personal.vault_database import VAULT_URL, VaultDatabase, reported_of_vault
from guestledger.adapters.postgres.personal.vault_statements import VaultStatements
from guestledger.adapters.postgres.pool import close_engine, open_engine
from guestledger.adapters.settings import InvalidSettings, Settings, variable
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.ports.key_vault import DataKey, Hashing, KeyVault

_KEY, _KEY_FILE, _KMS_KEY = map(variable, ("encryption_key", "encryption_key_file", "encryption_kms_key"))
_VAULT_CONNECTIONS = 4


async def open_vault(
    settings: Settings, engine: AsyncEngine, stack: AsyncExitStack, *, embedded: bool, required: bool
) -> KeyVault:
    """The vault of a ledger, until `stack` closes. Without a key, one that refuses everything.

    If the vault is `required`, raises `InvalidSettings` without a key. Raises `WrongKey`, `VaultEmpty`, `ServiceError`.
    """
    if not embedded and not _given(settings):
        if required:
            raise InvalidSettings(
                f"{_KEY}, {_KEY_FILE} and {_KMS_KEY} are not set: personal data cannot be recorded without a key. "
                "`openssl rand -base64 32` makes one: keep it, and give it to every process of the ledger"
            )
        return _NoVault()
    database = _database(settings, engine, stack)
    ring = await _ring(settings, database, embedded=embedded)
    vault = PostgresKeyVault(database, ring, LedgerFacts(engine, settings.schema))
    stack.push_async_callback(vault.close)
    if required:
        await vault.prepare(make=True)
    else:
        with suppress(NotAllowed):  # an auditor may not read the vault
            await vault.prepare(make=False)
    return vault


@asynccontextmanager
async def open_rotation(settings: Settings, new_key_file: Path | None = None) -> AsyncIterator[KeyRotation]:
    """Open what lists and rotates key-encryption keys. `new_key_file` has the key to rotate to. Raises `ServiceError`."""
    async with AsyncExitStack() as stack:
        engine = open_engine(await locate_database(settings), settings.schema, pool_size=2)
        stack.push_async_callback(close_engine, engine)
        await check_current(engine, settings.schema)
        database = _database(settings, engine, stack)
        ring = await _ring(settings, database, embedded=settings.database_url is None)
        target = None if new_key_file is None else keys_of_file(new_key_file, "--new-key-file")[0]
        yield KeyRotation(database, ring, LedgerFacts(engine, settings.schema), target)


def _database(settings: Settings, engine: AsyncEngine, stack: AsyncExitStack) -> VaultDatabase:
    if settings.vault_url is None:
        return VaultDatabase(engine, settings.schema)
    with reported_of_vault(settings.schema):
        apart = open_engine(settings.vault_url, settings.schema, pool_size=_VAULT_CONNECTIONS, setting=VAULT_URL)
    stack.push_async_callback(close_engine, apart)
    return VaultDatabase(apart, settings.schema, apart=True)


async def _ring(settings: Settings, database: VaultDatabase, *, embedded: bool) -> KeyRing:
    keys, service = _keys(settings), _service(settings)
    if embedded and not keys and service is None:
        keys = await _embedded_keys(settings, database)
    return KeyRing(database, keys, service=service, settings=" and ".join(_given(settings)) or _KEY_FILE)


def _keys(settings: Settings) -> Sequence[KeyEncryptionKey]:
    keys: list[KeyEncryptionKey] = []
    if settings.encryption_key is not None:
        keys += keys_of_text(settings.encryption_key, _KEY)
    if settings.encryption_key_file is not None:
        keys += keys_of_file(settings.encryption_key_file, _KEY_FILE)
    return keys


def _service(settings: Settings) -> KeyService | None:
    if settings.encryption_kms_key is None:
        return None
    if find_spec("boto3") is None:
        raise InvalidSettings(f"{_KMS_KEY} is set, and AWS' SDK is not installed: install guestledger[kms]")
    from guestledger.adapters.kms import Kms  # noqa: PLC0415 - an optional extra

    return Kms(settings.encryption_kms_key.split())


def _given(settings: Settings) -> list[str]:
    """The variables that the keys come from."""
    values = {
        _KEY: settings.encryption_key,
        _KEY_FILE: settings.encryption_key_file,
        _KMS_KEY: settings.encryption_kms_key,
    }
    return [name for name, value in values.items() if value is not None]


async def _embedded_keys(settings: Settings, database: VaultDatabase) -> Sequence[KeyEncryptionKey]:
    """The key of a file beside the data, so that a copy of the data alone cannot be read. An empty vault gets a new one."""
    place = data_dir(settings)
    path = place.with_name(f"{place.name}.key")
    if not path.exists() and await database.fetch(VaultStatements(database.schema, durable=False).read_index):
        raise InvalidSettings(
            f"{path} is missing, and the keys of this ledger need it: bring it back, or set {_KEY_FILE} to its place"
        )
    try:
        return keys_of_file(made_key_file(path), _KEY_FILE)
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be made: {error.strerror}. Set {_KEY_FILE} to another place") from None


class _NoVault:
    """Stands in for readers without a key. They see commitments."""

    hashing = None

    async def key_of(self, _subject: bytes, _purpose: Purpose) -> DataKey:
        raise self._missing()

    def propose(self, _subject: bytes, _purposes: Iterable[Purpose]) -> Sequence[Any]:
        return ()

    async def refresh(self) -> None:
        raise self._missing()

    async def keys(self, ids: Collection[UUID]) -> Mapping[UUID, DataKey]:
        if ids:
            raise self._missing()
        return {}

    async def keys_to_seal(self, ids: Collection[UUID]) -> Mapping[UUID, DataKey]:
        return await self.keys(ids)

    def cached(self, _subject: bytes, _purpose: Purpose) -> DataKey | None:
        return None

    async def index_key(self) -> Hashing:
        raise self._missing()

    async def check(self) -> None:
        raise self._missing()

    async def ids(self, _subject: bytes, _purpose: Purpose | None = None) -> list[UUID]:
        raise self._missing()

    async def destroy(self, _ids: Collection[UUID]) -> None:
        raise self._missing()

    def forget(self, _ids: Collection[UUID]) -> None:
        pass

    def _missing(self) -> ServiceUnreachable:
        return ServiceUnreachable("key vault", Cause.NOT_CONFIGURED, f"set {_KEY}, {_KEY_FILE} or {_KMS_KEY}")
