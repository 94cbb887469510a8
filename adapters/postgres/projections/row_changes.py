"""Row changes of one batch: one statement writes them all, with the checkpoint."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Table

from guestledger.adapters.postgres.json_rows import json_text, rows_in
from guestledger.adapters.postgres.projections.shadow import shadow_name
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver
from guestledger.engine.log.recorded import RecordedEvent

Row = TypeVar("Row", bound=msgspec.Struct)


class RowChanges:
    """Collects the changes of one batch, once for each table. With `shadow`, to the shadow tables."""

    def __init__(self, driver: Driver, schema: str, *, shadow: bool = False) -> None:
        self._driver = driver
        self._schema = quoted(schema)
        self._shadow = shadow
        self._statements: list[str] = []
        self._values: list[Any] = []

    async def known(self, table: Table, row_type: type[Row], events: list[RecordedEvent]) -> dict[Any, Row]:
        """The present rows of these events' streams."""
        # A stream that begins in this batch has no row yet.
        older = {event.stream_id for event in events} - {event.stream_id for event in events if event.version == 1}
        if not older:
            return {}
        rows = await self._driver.fetch(f"SELECT * FROM {self._name(table)} WHERE id = ANY($1)", list(older))
        return {row["id"]: msgspec.convert(dict(row), row_type) for row in rows}

    def replace(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Insert these rows, or replace those with the same key."""
        if rows:
            names = [name for name in rows[0].__struct_fields__ if name in table.c]
            values = attrgetter(*names)  # nothing else goes to the database
            kept = [dict(zip(names, values(row), strict=True)) for row in rows]
            self._upsert(table, kept, "{column} = excluded.{column}")

    def add(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert these rows, or add their numbers to those with the same key."""
        if rows:
            self._upsert(table, rows, "{column} = old.{column} + excluded.{column}")

    async def write(self, checkpoints: Sequence[str], position: int) -> None:
        """Write all changes, and set these checkpoints to `position`."""
        number = len(self._values)
        move = f"""
            UPDATE {self._schema}.checkpoints SET position = ${number + 2}::bigint, stopped_at = NULL, error = NULL
             WHERE projection = ANY(${number + 1}::text[])"""
        changes = ", ".join(f"change_{n} AS ({statement})" for n, statement in enumerate(self._statements))
        await self._driver.execute(
            f"WITH {changes} {move}" if changes else move, *self._values, list(checkpoints), position
        )

    def _upsert(self, table: Table, rows: Sequence[Mapping[str, Any]], change: str) -> None:
        names = list(rows[0])
        key = ", ".join(column.name for column in table.primary_key)
        changes = ", ".join(change.format(column=name) for name in names if not table.c[name].primary_key)
        self._values.append(json_text(rows))
        self._statements.append(
            f"INSERT INTO {self._name(table)} AS old ({', '.join(names)}) "
            f"{rows_in(f'${len(self._values)}', table, names)} "
            f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
        )

    def _name(self, table: Table) -> str:
        return f"{self._schema}.{shadow_name(table) if self._shadow else table.name}"
