"""The key-encryption keys that this process can use."""

from collections.abc import Sequence

from guestledger.adapters.crypto.wrapping import KeyEncryptionKey, KeyService, ServiceKey
from guestledger.adapters.postgres.personal.vault_database import VaultDatabase
from guestledger.adapters.postgres.sql import quoted
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import CredentialsRefused
from guestledger.engine.ports.key_vault import KEY_VAULT


class WrongKey(CredentialsRefused):
    """The key vault's keys do not open with the key-encryption keys of this process."""

    def __init__(self, fact: str) -> None:
        super().__init__(KEY_VAULT, Cause.KEY_REFUSED, fact)
        self.args = (fact,)

    def __str__(self) -> str:
        return f"the {self.service} cannot be used: {self.detail}"


class KeyRing:
    """Keys from the settings, newest first, and those that a key service made, stored wrapped in the vault.

    `settings` names the variables that the keys come from.
    """

    def __init__(
        self,
        database: VaultDatabase,
        keys: Sequence[KeyEncryptionKey],
        *,
        service: KeyService | None = None,
        settings: str = "",
    ) -> None:
        self._database = database
        self._known = {key.id: key for key in keys}
        self._newest = keys[0] if keys else None
        self._service = service
        self._settings = settings
        self._read_wrapped = f"SELECT wrapped FROM {quoted(database.schema)}.wrapping_keys WHERE id = $1::text"

    @property
    def source(self) -> str | None:
        """The key service that makes new keys, if any."""
        return None if self._service is None else self._service.source

    async def get(self, key_id: str) -> KeyEncryptionKey:
        """The key with this id. Asks the key service once for each. Raises `WrongKey`, `ServiceError`."""
        if (known := self._known.get(key_id)) is not None:
            return known
        if self._service is not None:
            for (wrapped,) in await self._database.fetch(self._read_wrapped, key_id):
                key = await self._service.unwrap(wrapped)
                if key.id == key_id:
                    self._known[key_id] = key
                    return key
        raise WrongKey(
            f"its keys are wrapped by the key-encryption key {key_id}, and this process has "
            f"{', '.join(self._known) or 'another'}: check {self._settings}"
        )

    async def newest(self) -> ServiceKey:
        """The key to wrap with from now on: a new one of the key service, else the first of the settings.

        One of the settings has nothing to store: its `wrapped` is empty.
        """
        if self._service is None:
            assert self._newest is not None
            return ServiceKey(self._newest, b"")
        made = await self._service.make()
        self._known[made.key.id] = made.key
        return made

    def add(self, key: KeyEncryptionKey) -> None:
        """Also use this key."""
        self._known[key.id] = key
