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
from guestledger.adapters.single_flight import SingleFlight
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import AccessKey, Role

PREFIX = "glk"
CACHE_SECONDS = 5.0
"""How long a revoked key may still be used."""
_NEW_KEY_SECONDS = 0.5
"""An unknown key has the keys read again, but not more often than this."""
_READ_SECONDS = 5.0
"""How long the database may take to return the keys."""
_CHALLENGE = {"www-authenticate": "Bearer"}
_NO_DIGEST = bytes(32)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a request. `name` is the actor in the history."""

    name: str
    roles: frozenset[Role]
    key: str = ""
    """What the limits count by; empty: the name."""

    @property
    def counted_as(self) -> str:
        """What the limits count by."""
        return self.key or self.name


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


UNKNOWN = "The key is unknown or was revoked: `guestledger keys access list` shows all keys."


def caller_of(key: AccessKey) -> Caller:
    """Return the holder of a key."""
    return Caller(name=key.name, roles=frozenset({key.role}), key=key.id.hex)


class BearerKeys:
    """Authenticates by `Authorization: Bearer glk_…`. All keys of the ledger are read every few seconds: there are few."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._keys: Mapping[UUID, AccessKey] = {}
        self._read_at = float("-inf")
        self._ledger: Ledger | None = None
        self._reading = SingleFlight[Mapping[UUID, AccessKey]]()

    async def __call__(self, request: Request, ledger: Ledger) -> Caller:
        """See `Authenticate`."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise Refused("key-missing", "Send an access key: Authorization: Bearer glk_…", _CHALLENGE)
        key = await self.key_of(text.strip(), ledger)
        if key is None:
            raise Refused("key-invalid", UNKNOWN, {"www-authenticate": 'Bearer error="invalid_token"'})
        return caller_of(key)

    async def key_of(self, text: str, ledger: Ledger) -> AccessKey | None:
        """Return the key that its holder gave; `None`: it is unknown or was revoked. Raises `ServiceError`."""
        prefix, _, rest = text.partition("_")
        id_, _, secret = rest.partition("_")
        key = await self.key(id_, ledger) if prefix == PREFIX else None
        # Compared for an unknown key too, so that the time does not tell which ids exist.
        right = compare_digest(digest_of(secret), key.digest if key else _NO_DIGEST)
        return key if right else None

    async def key(self, id_: str, ledger: Ledger) -> AccessKey | None:
        """Return the key with this id, in hex; `None`: it is unknown or was revoked. Raises `ServiceError`."""
        key = await self._find(_parsed(id_), ledger)
        return None if key is None or key.revoked_at is not None else key

    async def _find(self, wanted: UUID | None, ledger: Ledger) -> AccessKey | None:
        keys = self._keys
        if self._is_stale(wanted, ledger):
            keys = await self._reading.run(str(id(ledger)), lambda: self._read(ledger))
        return None if wanted is None else keys.get(wanted)

    async def _read(self, ledger: Ledger) -> Mapping[UUID, AccessKey]:
        began = self._now()
        try:
            async with asyncio.timeout(_READ_SECONDS):
                keys = {key.id: key for key in await ledger.access.list()}
        except TimeoutError:
            raise ServiceUnreachable("database", Cause.ANSWER_TIMEOUT) from None
        self._keys, self._read_at, self._ledger = keys, began, ledger
        return keys

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
    # A page that names no referrer, such as the console's, has the origin `null`; the browser says that it is our own.
    own = origin is None or request.headers.get("sec-fetch-site") == "same-origin"
    if not is_loopback(host_of(request)) or not (own or is_loopback(host_in((origin or "").partition("://")[2]))):
        raise Refused("origin-not-allowed", "Call it by a loopback address, such as 127.0.0.1, from no web page.")
    return Caller(name="without key", roles=frozenset(Role))


def is_loopback(host: str) -> bool:
    """Return whether this is an address or the name of this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(request: Request) -> str:
    """Return the host that the request was sent to, without its port."""
    return host_in(request.headers.get("host", ""))


def host_in(authority: str) -> str:
    """Return the host of `host:port`."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.rpartition(":")[0] if ":" in authority else authority
