"""Rows that pass to PostgreSQL as the text of JSON, one parameter for each table.

The driver encodes arrays element by element, which took a twentieth of the time of opening a session; msgspec writes the text
at once. It passes as `text`: a host's connections may have codecs of their own for json.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import JSON, Column, LargeBinary, Table
from sqlalchemy.dialects import postgresql

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def _plain(value: object) -> str:
    if isinstance(value, str):
        return str(value)  # msgspec does not encode subclasses of `str`
    raise TypeError(f"no value of a column: {type(value).__name__}")


_encoder = msgspec.json.Encoder(enc_hook=_plain)


def json_text(rows: Sequence[Any]) -> str:
    """The text of `rows`: structs or mappings, with the names of columns."""
    return _encoder.encode(rows).decode()


def rows_in(parameter: str, table: Table, columns: Sequence[str]) -> str:
    """A SELECT of these columns of the rows in `parameter`, in their order. JSON in a row is a string, which keeps its exact text."""
    of = [table.c[name] for name in columns]
    values = ", ".join(_value(column) for column in of)
    types = ", ".join(f"{column.name} {_passed_type(column)}" for column in of)
    return f"SELECT {values} FROM json_to_recordset({parameter}::text::json) AS given ({types})"


def _value(column: Column[Any]) -> str:
    match column.type:
        case LargeBinary():
            return f"decode({column.name}, 'base64')"  # as msgspec writes bytes
        case JSON():
            # As JSON within JSON it could hold no escaped NUL: PostgreSQL unescapes what lies below, too.
            return f"{column.name}::json"
        case _:
            return column.name


def _passed_type(column: Column[Any]) -> str:
    return "text" if isinstance(column.type, LargeBinary | JSON) else str(column.type.compile(_DIALECT))
