"""CSV (RFC 4180) that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from guestledger.adapters.cli.streams import plain

# A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection"). Tabs and carriage
# returns are escaped before.
_FORMULA = ("=", "+", "-", "@", "\n")


class CsvLines:
    """Writes one line for each object. The header comes first, also if no line follows."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._writer = csv.writer(sys.stdout, lineterminator="\r\n")
        self._writer.writerow(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one line. Times are as in JSON, lists and objects are JSON texts; a null is an empty cell."""
        import msgspec

        values = msgspec.to_builtins(row, str_keys=True)
        self._writer.writerow([cell(values[column]) for column in self._columns])


def cell(value: Any) -> str:
    """Return the text of a cell. A text that a spreadsheet would compute gets an apostrophe before it."""
    import msgspec

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
