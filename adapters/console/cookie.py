"""The cookie of somebody who signed in. It holds the key's id, the end, and a signature, so the server remembers nothing."""

import time
from collections.abc import Callable
from hmac import compare_digest, digest

from guestledger.adapters.api.access import BearerKeys, Caller, caller_of, host_in, host_of, is_loopback
from guestledger.adapters.api.exchange import Request
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.console.own_site import check_own_site
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import AccessKey

NAME = "guestledger_console"
SECONDS = 8 * 3_600
_OF_PROXIES = {"forwarded", "x-forwarded-for", "x-forwarded-proto"}


class SignedIn:
    """Names who signed in. A key that was revoked ends its cookies."""

    def __init__(self, keys: BearerKeys, now: Callable[[], float] = time.time) -> None:
        self.keys = keys
        self._now = now

    async def __call__(self, request: Request, ledger: Ledger) -> Caller:
        """See `Authenticate`. Raises `Refused` also for a POST of another site."""
        check_own_site(request)
        id_, _, rest = value_of(request).partition(".")
        end, _, signature = rest.partition(".")
        key = await self.keys.key(id_, ledger) if end.isascii() and end.isdecimal() and len(end) < 12 else None
        if key is None or int(end) <= self._now():
            raise Refused("key-missing", "Sign in with an access key.")
        if not compare_digest(await _signature(key, end, ledger), signature.encode()):
            raise Refused("key-missing", "Sign in with an access key.")
        return caller_of(key)

    async def cookie(self, key: AccessKey, request: Request, ledger: Ledger) -> str:
        """Return the header that signs the holder of a key in."""
        end = str(int(self._now()) + SECONDS)
        signature = (await _signature(key, end, ledger)).decode()
        return _header(f"{key.id.hex}.{end}.{signature}", request, SECONDS)


def no_cookie(request: Request) -> str:
    """Return the header that signs out."""
    return _header("", request, 0)


def value_of(request: Request) -> str:
    """Return the cookie's value; empty: there is none."""
    # Not by `http.cookies`: one malformed cookie of another application would hide all.
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == NAME:
            return value
    return ""


async def _signature(key: AccessKey, end: str, ledger: Ledger) -> bytes:
    secret = await ledger.access.sign_in_secret(key)
    return digest(secret, f"{key.id.hex}.{end}".encode(), "sha256").hex().encode()


def _header(value: str, request: Request, seconds: int) -> str:
    # Plain HTTP is for this machine alone: anywhere else the browser keeps the cookie only with TLS.
    secure = "" if _is_of_this_machine(request) else "; Secure"
    return f"{NAME}={value}; Path={request.base or '/'}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def _is_of_this_machine(request: Request) -> bool:
    """Whether a browser of this machine came without TLS. The host alone does not show it: a proxy may write its own."""
    scheme, _, origin = request.headers.get("origin", "").partition("://")
    return (
        is_loopback(host_of(request))
        and scheme != "https"
        and (not origin or is_loopback(host_in(origin)))
        and not _OF_PROXIES & request.headers.keys()
    )
