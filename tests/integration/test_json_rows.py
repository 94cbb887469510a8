"""Rows pass to PostgreSQL as the text of JSON, and every value arrives as it was."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, JSON, BigInteger, Boolean, Column, DateTime, LargeBinary, MetaData, Table, Text, Uuid

from guestledger.adapters.postgres.json_rows import json_text, rows_in
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.personal import Sealed

AWKWARD = 'say "cheese" \\ {,} \u2028 \U0001f980 \n\t \x85'

TABLE = Table(
    "values",
    MetaData(),
    Column("id", Uuid),
    Column("word", Text),
    Column("words", ARRAY(Text)),
    Column("bytes", LargeBinary),
    Column("at", DateTime(timezone=True)),
    Column("number", BigInteger),
    Column("flag", Boolean),
    Column("data", JSON),
)


class Row(msgspec.Struct):
    id: UUID
    word: str | None
    words: tuple[str, ...]
    bytes: bytes
    at: datetime | None
    number: int
    flag: bool
    data: str


ROWS = [
    Row(
        UUID(int=2**127 + 1),
        AWKWARD,
        (AWKWARD, "", "NULL"),
        bytes(range(256)),
        datetime(2024, 5, 20, 14, 22, 59, 123456, UTC),
        2**63 - 1,
        True,
        '{"b":1.0,  "a":"\\u0000 \\u00e9", "a":[]}',
    ),
    Row(UUID(int=0), None, (), b"", None, -(2**63), False, "null"),
    Row(UUID(int=1), Sealed("a kind of string"), ("é",), b"\0", None, 0, False, '"text"'),
    Row(UUID(int=3), StepName.CREATE_SESSION, (), b"", None, 0, False, "[1e2]"),
]


async def found(sql: Any, rows: list[Row]) -> list[Row]:
    columns = TABLE.c.keys()
    rows_of = rows_in("$1", TABLE, columns).replace("data::json", "data::json::text AS data", 1)
    names = ", ".join(columns)
    return [Row(*row) for row in await sql(f"SELECT * FROM ({rows_of}) AS found ({names})", json_text(rows))]


async def test_values_arrive_as_they_were_and_json_keeps_its_text(sql: Any) -> None:
    arrived = await found(sql, ROWS)
    assert [msgspec.structs.replace(row, words=tuple(row.words)) for row in arrived] == ROWS


async def test_no_rows_are_no_rows(sql: Any) -> None:
    assert await found(sql, []) == []
