"""Docstrings and fields as Markdown, for the pages that are written from the code."""

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence

GENERATED = "<!-- Written from the code by `python -m tests.docs.generate`. Changes here are lost. -->"


def sentences(text: str | None) -> str:
    """A docstring as Markdown: its paragraphs, each on one line."""
    paragraphs = re.split(r"\n\s*\n", textwrap.dedent(text or "").strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def meanings(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a class, or below the values of an enum."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, following in zip(definition.body, definition.body[1:], strict=False):
        match field, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = sentences(text)
    return found


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
