"""Requests and responses, as every web framework has them."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import msgspec

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
CSV = "text/csv"
FORM = "application/x-www-form-urlencoded"
HTML = "text/html; charset=utf-8"
TEXT = "text/plain"
PROBLEM = "application/problem+json"


Parts = AsyncGenerator[bytes, None]
"""A body as it is made. The sender closes it, also after a disconnect."""


class BodyTooLarge(Exception):
    """The body of a request is longer than is read."""


async def no_body(_limit: int) -> bytes:
    """Return the body of a request that has none."""
    return b""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request. Nothing in it is decoded yet, except that header names are in lower case."""

    method: str
    path: str
    """Percent-encoded, without `base`."""
    query: str = ""
    headers: Mapping[str, str] = {}
    """Values are ISO 8859-1; those of a repeated header are joined by commas."""
    read: Callable[[int], Awaitable[bytes]] = no_body
    """Read the body, at most so many bytes. Raises `BodyTooLarge`."""
    client: str = ""
    """The address of the other end: a reverse proxy, or the caller."""
    base: str = ""
    """The path at which the application is mounted."""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP response. `body` is bytes, or what yields them."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes | Parts = b""

    def __repr__(self) -> str:
        return f"Response({self.status})"  # the rest may be personal


class Cut(Exception):
    """A response failed after its beginning was sent: the connection has to be closed. The failure is in the log."""
