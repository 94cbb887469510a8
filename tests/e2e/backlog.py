"""Requests that were accepted and wait for a worker."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

import msgspec

from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import parse_request
from tests.e2e.guests import Request
from tests.keys import KEY


async def accept(database: str | Settings, requests: Iterable[Request]) -> list[UUID]:
    """Accept these requests and take them no further; their ids. `database` is its URL, or settings that name it."""
    settings = Settings(encryption_key=KEY, database_url=database) if isinstance(database, str) else database
    parsed = (parse_request(msgspec.json.encode(request)) for request in requests)
    async with connect(settings, scheduler=False) as ledger:
        return [session.id for session in await asyncio.gather(*map(ledger.accept, parsed))]
