"""Who calls: access keys, and what their holders may do.

A key is `glk_<id>_<secret>`. Its secret is 32 random bytes, so one round of SHA-256 is enough to store it: there is nothing to
guess, and a slow hash, as for passwords, would only slow down every request.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from uuid import UUID

import msgspec

from guestledger.adapters.api.exchange import Request
from guestledger.adapters.api.problems import Refused
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import AccessKey, Role

PREFIX = "glk"
CACHE_SECONDS = 5.0
"""How long a revoked key may still be used."""
_NEW_KEY_SECONDS = 0.5
"""An unknown key has the keys read again, but not more often than this."""
_CHALLENGE = {"www-authenticate": "Bearer"}
_NO_DIGEST = bytes(32)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a request. `name` is the actor in the history, `key` what the rate limit counts by."""

    name: str
    roles: frozenset[Role]
    key: str = ""


NOBODY = Caller(name="", roles=frozenset())
"""The caller of public routes."""

Authenticate = Callable[[Request, Ledger], Awaitable[Caller]]
"""Return who makes a request. Raises `Refused`."""


def new_secret() -> str:
    """Return the secret of a new key."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    """Return what is stored of a secret."""
    return sha256(secret.encode()).digest()


def key_text(key: UUID, secret: str) -> str:
    """Return the key as its holder gets it."""
    return f"{PREFIX}_{key.hex}_{secret}"


class BearerKeys:
    """Authenticates by `Authorization: Bearer glk_…`. All keys of the ledger are read every few seconds: there are few."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._keys: Mapping[UUID, AccessKey] = {}
        self._read_at = float("-inf")
        self._ledger: Ledger | None = None
        self._reading = asyncio.Lock()

    async def __call__(self, request: Request, ledger: Ledger) -> Caller:
        """See `Authenticate`."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise Refused("key-missing", "Send an access key: Authorization: Bearer glk_…", _CHALLENGE)
        prefix, _, rest = text.strip().partition("_")
        id_, _, secret = rest.partition("_")
        key = await self._find(_parsed(id_), ledger) if prefix == PREFIX else None
        # Compared for an unknown key too, so that the time does not tell which ids exist.
        right = compare_digest(digest_of(secret), key.digest if key else _NO_DIGEST)
        if key is None or not right or key.revoked_at is not None:
            raise Refused(
                "key-invalid",
                "The key is unknown or was revoked: `guestledger keys access list` shows all keys.",
                {"www-authenticate": 'Bearer error="invalid_token"'},
            )
        return Caller(name=key.name, roles=frozenset({key.role}), key=key.id.hex)

    async def _find(self, wanted: UUID | None, ledger: Ledger) -> AccessKey | None:
        if self._is_stale(wanted, ledger):
            async with self._reading:  # one request reads for all that wait
                if self._is_stale(wanted, ledger):
                    began = self._now()
                    self._keys = {key.id: key for key in await ledger.access.list()}
                    self._read_at, self._ledger = began, ledger
        return None if wanted is None else self._keys.get(wanted)

    def _is_stale(self, wanted: UUID | None, ledger: Ledger) -> bool:
        age = self._now() - self._read_at
        unknown = wanted is not None and wanted not in self._keys
        return ledger is not self._ledger or age >= CACHE_SECONDS or (unknown and age >= _NEW_KEY_SECONDS)


def _parsed(text: str) -> UUID | None:
    try:
        return UUID(hex=text) if len(text) == 32 else None
    except ValueError:
        return None


async def without_keys(request: Request, _ledger: Ledger) -> Caller:
    """Let every program on this machine do everything. Web pages may not: a browser sends their requests here, too."""
    origin = request.headers.get("origin")
    if not is_loopback(_host(request.headers.get("host", ""))) or (
        origin is not None and not is_loopback(_host(origin.partition("://")[2]))
    ):
        raise Refused("origin-not-allowed", "Call it by a loopback address, such as 127.0.0.1, from no web page.")
    return Caller(name="without key", roles=frozenset(Role))


def is_loopback(host: str) -> bool:
    """Return whether this is an address or the name of this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _host(authority: str) -> str:
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.rpartition(":")[0] if ":" in authority else authority
