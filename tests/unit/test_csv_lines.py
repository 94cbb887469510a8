"""CSV that other programs read back, and that no spreadsheet computes (OWASP, "CSV Injection"; RFC 4180)."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st

from guestledger.adapters.cli.csv_lines import CsvLines
from guestledger.adapters.forms.csv_rows import cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_text_that_a_spreadsheet_computes_is_defused(text: str) -> None:
    assert cell(text)[0] in {"'", "\\"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (-12, "-12"),
        (-0.5, "-0.5"),
        ("privacy-2026-04", "privacy-2026-04"),
        (["dataProcessing"], '["dataProcessing"]'),
        ({"a": "=1"}, '{"a":"=1"}'),
        ("a\x1b[2Jb", "a\\u001b[2Jb"),
    ],
)
def test_each_kind_of_value_has_its_text(value: Any, shown: str) -> None:
    assert cell(value) == shown


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.text(st.characters(codec="utf-8")), min_size=2), max_size=3))
def test_any_rows_are_read_back_as_they_were_written(rows: list[dict[str, str]]) -> None:
    written = io.StringIO(newline="")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", written)
        lines = CsvLines(["a", "b"])
        for row in rows:
            lines.write(row)
    found = list(csv.reader(io.StringIO(written.getvalue(), newline="")))
    assert found == [["a", "b"], *([cell(row["a"]), cell(row["b"])] for row in rows)]
    assert all(not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for row in found for text in row)


def test_a_header_comes_also_without_rows_and_times_are_as_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    lines = CsvLines(["at", "note"])
    assert capsys.readouterr().out == "at,note\r\n"
    lines.write({"at": datetime(2026, 5, 1, tzinfo=UTC), "note": 'say "hi", then\nleave'})
    assert capsys.readouterr().out == '2026-05-01T00:00:00Z,"say ""hi"", then\nleave"\r\n'
