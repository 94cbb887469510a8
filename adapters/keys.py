"""A ledger's key-encryption key and key vault, as its settings say."""

from collections.abc import Collection, Mapping
from pathlib import Path
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, key_of_file, key_of_text, made_key_file
from guestledger.adapters.database import data_dir
from guestledger.adapters.postgres.personal.vault import PostgresKeyVault
from guestledger.adapters.settings import InvalidSettings, Settings, variable
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.ports.key_vault import DataKey, KeyVault

_KEY, _KEY_FILE = variable("encryption_key"), variable("encryption_key_file")


def open_vault(settings: Settings, engine: AsyncEngine, *, embedded: bool, required: bool) -> KeyVault:
    """The vault of a ledger. Without a key, one that refuses everything; if it is `required`, raises `InvalidSettings`."""
    key = _key(settings, embedded=embedded)
    if key is not None:
        return PostgresKeyVault(engine, settings.schema, key)
    if required:
        raise InvalidSettings(
            f"{_KEY} and {_KEY_FILE} are not set: personal data cannot be recorded without a key. "
            "`openssl rand -base64 32` makes one: keep it, and give it to every process of the ledger"
        )
    return _NoVault()


def _key(settings: Settings, *, embedded: bool) -> KeyEncryptionKey | None:
    if settings.encryption_key is not None:
        return key_of_text(settings.encryption_key, _KEY)
    if settings.encryption_key_file is not None:
        return key_of_file(settings.encryption_key_file, _KEY_FILE)
    return key_of_file(_embedded_key_file(settings), _KEY_FILE) if embedded else None


def _embedded_key_file(settings: Settings) -> Path:
    """Beside the data, so that a copy of the data alone cannot be read."""
    place = data_dir(settings).absolute()
    path = place.with_name(f"{place.name}.key")
    try:
        return made_key_file(path)
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be made: {error.strerror}. Set {_KEY_FILE} to another place") from None


class _NoVault:
    """Stands in for readers without a key. They see commitments."""

    async def key_of(self, _subject: bytes, _purpose: Purpose) -> DataKey:
        raise self._missing()

    async def keys(self, ids: Collection[UUID]) -> Mapping[UUID, DataKey]:
        if ids:
            raise self._missing()
        return {}

    async def index_key(self) -> bytes:
        raise self._missing()

    async def ids(self, _subject: bytes, _purpose: Purpose | None = None) -> list[UUID]:
        raise self._missing()

    async def destroy(self, _ids: Collection[UUID]) -> None:
        raise self._missing()

    def forget(self, _ids: Collection[UUID]) -> None:
        pass

    def _missing(self) -> ServiceUnreachable:
        return ServiceUnreachable("key vault", Cause.NOT_CONFIGURED, f"set {_KEY} or {_KEY_FILE}")
