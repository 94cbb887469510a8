"""Row changes of one batch: one statement writes them all, with the checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ARRAY, Column, Table
from sqlalchemy.dialects import postgresql

from guestledger.adapters.postgres.projections.shadow import shadow_name
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver
from guestledger.engine.log.recorded import RecordedEvent

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

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
            values = zip(*map(msgspec.structs.astuple, rows), strict=True)
            columns = dict(zip(rows[0].__struct_fields__, values, strict=True))
            kept = {name: column for name, column in columns.items() if name in table.c}
            self._upsert(table, kept, "{column} = excluded.{column}")

    def add(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert these rows, or add their numbers to those with the same key."""
        if rows:
            values = {name: [row[name] for row in rows] for name in rows[0]}
            self._upsert(table, values, "{column} = old.{column} + excluded.{column}")

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

    def _upsert(self, table: Table, values: Mapping[str, Sequence[Any]], change: str) -> None:
        first = len(self._values) + 1
        # unnest would flatten arrays in an array, so they go in as text.
        nested = {name for name in values if isinstance(table.c[name].type, ARRAY)}
        types = {name: "text" if name in nested else _type(table.c[name]) for name in values}
        arrays = ", ".join(f"${number}::{types[name]}[]" for number, name in enumerate(values, first))
        given = ", ".join(f"{name}::{_type(table.c[name])}" if name in nested else name for name in values)
        key = ", ".join(column.name for column in table.primary_key)
        changes = ", ".join(change.format(column=name) for name in values if not table.c[name].primary_key)
        self._statements.append(
            f"INSERT INTO {self._name(table)} AS old ({', '.join(values)}) "
            f"SELECT {given} FROM unnest({arrays}) AS given ({', '.join(values)}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
        )
        self._values += [_literals(column) if name in nested else column for name, column in values.items()]

    def _name(self, table: Table) -> str:
        return f"{self._schema}.{shadow_name(table) if self._shadow else table.name}"


def _literals(arrays: Sequence[Sequence[object]]) -> list[str]:
    return ["{" + ",".join(map(_element, array)) + "}" for array in arrays]


def _element(value: object) -> str:
    text = str(value).replace("\\", r"\\").replace('"', r"\"")
    return f'"{text}"'


def _type(column: Column[Any]) -> str:
    return str(column.type.compile(_DIALECT))
