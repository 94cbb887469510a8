"""`ledger.access`: the access keys of the HTTP API."""

import logging
from uuid import UUID

from guestledger.engine.domain.request import checked_text
from guestledger.engine.ports.access_keys import AccessKey, AccessKeys, Role
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.personal_data import PersonalData

logger = logging.getLogger("guestledger")


class Access:
    """Creates, lists and revokes access keys. Only digests of their secrets come here."""

    def __init__(self, keys: AccessKeys, personal: PersonalData, clock: Clock) -> None:
        self._keys = keys
        self._personal = personal
        self._clock = clock

    async def add(self, name: str, role: Role, digest: bytes, *, created_by: str) -> AccessKey:
        """Record a new key, by the SHA-256 of its secret, and return it.

        Raises `InvalidRequest` for a text that cannot be stored, and `ServiceError`.
        """
        key = AccessKey(
            id=self._clock.new_id(),
            name=checked_text("name", name),
            role=role,
            digest=digest,
            created_at=self._clock.now(),
            created_by=checked_text("createdBy", created_by),
        )
        await self._keys.add(key)
        return key

    async def list(self) -> list[AccessKey]:
        """Return all keys, oldest first, the revoked ones too. Raises `ServiceError`."""
        return await self._keys.list()

    async def sign_in_secret(self, key: AccessKey) -> bytes:
        """Return the secret under which sign-ins with this key are signed. Raises `ServiceError` without the encryption key.

        It is not the digest alone: everybody who may read the log by SQL may read the digests.
        """
        return await self._personal.hashed("sign-in", key.digest.hex())

    async def revoke(self, key: UUID, *, requested_by: str) -> bool:
        """Revoke a key for good; `False`: there is no such key, or it was revoked before.

        Processes that serve the API refuse it within seconds. A log warning names `requested_by`; no event does.
        """
        revoked = await self._keys.revoke(key, self._clock.now())
        if revoked:
            logger.warning("access key %s was revoked by %r", key, requested_by)
        return revoked
