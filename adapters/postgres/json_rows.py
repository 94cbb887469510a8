"""Rows that pass to PostgreSQL as the text of JSON, one parameter for each table.

The driver encodes arrays element by element, which took a tenth of the time that opening a session takes; msgspec writes the
text at once. It passes as `text`: a host's connections may have codecs of their own for json.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Column, LargeBinary, Table
from sqlalchemy.dialects import postgresql

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def _plain(value: object) -> str:
    if isinstance(value, str):
        return str(value)  # msgspec encodes no kinds of string
    raise TypeError(f"no value of a column: {type(value).__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_plain)


def json_text(rows: Sequence[Any]) -> str:
    """The text of `rows`: structs or mappings, with the names of columns."""
    return _encoder.encode(rows).decode()


def rows_in(parameter: str, table: Table, columns: Sequence[str]) -> str:
    """A SELECT of these columns of the rows in `parameter`, in their order. A `json` column keeps its exact text."""
    of = [table.c[name] for name in columns]
    values = ", ".join(f"decode({column.name}, 'base64')" if _is_bytes(column) else column.name for column in of)
    types = ", ".join(f"{column.name} {'text' if _is_bytes(column) else _type(column)}" for column in of)
    return f"SELECT {values} FROM json_to_recordset({parameter}::text::json) AS given ({types})"


def _is_bytes(column: Column[Any]) -> bool:
    return isinstance(column.type, LargeBinary)  # msgspec writes bytes as base64


def _type(column: Column[Any]) -> str:
    return str(column.type.compile(_DIALECT))
