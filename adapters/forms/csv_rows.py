"""CSV (RFC 4180) that is safe to open in a spreadsheet."""

import csv
import io
from collections.abc import Iterable
from typing import Any

import msgspec

from guestledger.adapters.forms.text import plain

# A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection"). Tabs and carriage
# returns are escaped before.
_FORMULA = ("=", "+", "-", "@", "\n")


def csv_line(cells: Iterable[str]) -> str:
    """Return one line with these cells."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()


def csv_row(columns: Iterable[str], row: Any) -> str:
    """Return the line of an object. Times are as in JSON, lists and objects are JSON texts; a null is an empty cell."""
    values = msgspec.to_builtins(row, str_keys=True)
    return csv_line(cell(values[column]) for column in columns)


def cell(value: Any) -> str:
    """Return the text of a cell. A text that a spreadsheet would compute gets an apostrophe before it."""
    match value:
        case None:
            return ""
        case str():
            text = plain(value)
            return f"'{text}" if text.startswith(_FORMULA) else text
        case list() | dict():
            return plain(msgspec.json.encode(value).decode())
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
