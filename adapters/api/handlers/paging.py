"""Pages of lists: keyset paging by an opaque cursor."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar
from uuid import UUID

from msgspec import Meta

from guestledger.engine.domain.errors import InvalidRequest

PAGE = 100
"""Rows in a page, unless `limit` says otherwise."""
MAX_PAGE = 500

Cursor = Annotated[str, Meta(max_length=64, description="`next` of the page before.")]
Limit = Annotated[int, Meta(ge=1, le=2**31 - 1, description=f"At most this many. A page has at most {MAX_PAGE}.")]
Row = TypeVar("Row")


def after(cursor: str | None) -> UUID | None:
    """Return the row that a cursor names. Raises `InvalidRequest`."""
    if cursor is None:
        return None
    try:
        return UUID(bytes=urlsafe_b64decode(cursor + "=="))
    except ValueError:
        raise InvalidRequest("cursor", "is not the `next` of a page") from None


def page_size(limit: int | None) -> int:
    """Return how many rows a page has."""
    return min(limit or PAGE, MAX_PAGE)


async def page(rows: AsyncIterator[Row], size: int) -> tuple[list[Row], str | None]:
    """Return the first `size` rows, and the cursor of the page behind them; `None`: there is none.

    `rows` have to be one more than that, if there are.
    """
    found = [row async for row in rows]
    return found[:size], cursor_of(found[size - 1]) if len(found) > size else None


def cursor_of(row: Any) -> str:
    """Return the cursor of what follows this row."""
    return urlsafe_b64encode(row.id.bytes).rstrip(b"=").decode()
