"""`guestledger events` and `consumers`: the log itself, and who feeds something else from it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import date
from typing import Any

from rich.table import Table

from guestledger.adapters.cli import show
from guestledger.adapters.cli.running import fail
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.personal import public
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent
from guestledger.engine.ports.consumers import ConsumerRow


async def events(after: int, wanted: EventFilter, *, follow: bool, json: bool) -> None:
    """Print the log after a position; with `follow` until SIGINT or SIGTERM. Raises `ServiceError`, `UnknownEvent`."""
    write = _Lines(json=json).write
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        if follow:
            async for batch in _until_signalled(ledger.tail(after=after, wanted=wanted)):
                write(batch.events)
        else:
            async for found in ledger.read_all(after=after, wanted=wanted):
                write(found)


async def consumers(*, json: bool, forget: str | None) -> None:
    """Print the named consumers, after dropping the one to `forget`. Raises `ServiceError`."""
    async with connect(Settings.from_env(), scheduler=False) as ledger:
        if forget is not None and not await ledger.forget_consumer(forget):
            fail(f"there is no consumer {forget!r}: `guestledger consumers` lists them")
        rows = await ledger.consumers()
    if json:
        for row in rows:
            show.write_json(row)
    else:
        show.console().print(_table(rows))


async def _until_signalled(batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
    """What `batches` give, until SIGINT or SIGTERM: to end what goes on for ever is no failure."""
    with suppress(asyncio.CancelledError):
        async for batch in batches:
            yield batch


class _Lines:
    """Events of the log, one a line, as they come: for a person who reads along, or as JSON. Personal data is masked."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._day: date | None = None

    def write(self, events: Iterable[RecordedEvent]) -> None:
        """Print these; a person also sees when a day begins."""
        for recorded in events:
            if self._json:
                show.write_json(_event_json(recorded))
                continue
            day = recorded.recorded_at.date()
            if day != self._day:
                self._day = day
                sys.stdout.write(f"{day} (UTC)\n")
            time = recorded.recorded_at.time().isoformat("milliseconds")
            name = wire_name(recorded.event)
            sys.stdout.write(f"{recorded.position:7} {time} {recorded.stream_id} {recorded.version:2} {name}\n")
        sys.stdout.flush()


def _table(rows: Iterable[ConsumerRow]) -> Table:
    """The named consumers, one a row."""
    table = show.table("consumer", "position", "lag", "running", wraps=("consumer",))
    for row in rows:
        show.add_row(table, row.name, row.position, row.lag, "yes" if row.running else "no")
    return table


def _event_json(recorded: RecordedEvent) -> dict[str, Any]:
    return {
        "position": recorded.position,
        "id": recorded.stream_id,
        "version": recorded.version,
        "recordedAt": recorded.recorded_at,
        "event": wire_name(recorded.event),
        "data": public(recorded.event),
        "actor": recorded.actor,
        "correlationId": recorded.correlation_id,
        "causationId": recorded.causation_id,
        "leafHash": recorded.leaf_hash.hex(),
    }
