"""CSV on stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any


class CsvLines:
    """Writes one line for each object. The header comes first, also if no line follows."""

    def __init__(self, columns: Sequence[str]) -> None:
        from guestledger.adapters.forms.csv_rows import csv_line

        self._columns = columns
        sys.stdout.write(csv_line(columns))

    def write(self, row: Mapping[str, Any] | Any) -> None:
        """Write one line. See `csv_row`."""
        from guestledger.adapters.forms.csv_rows import csv_row

        sys.stdout.write(csv_row(self._columns, row))
