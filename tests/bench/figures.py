"""What a benchmark measured, and how it is shown. A figure is worth something only beside what it is held against."""

import msgspec
from rich.console import Console
from rich.table import Table


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. `against` names the peer or limit measured in the same run, `ratio` is this one over that."""

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None


def show(figures: list[Figure]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, justify in (
        ("name", "left"),
        ("value", "right"),
        ("unit", "left"),
        ("against", "left"),
        ("ratio", "right"),
    ):
        table.add_column(column, justify=justify)
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        table.add_row(figure.name, f"{figure.value:,.1f}", figure.unit, figure.against, ratio)
    Console(width=120).print(table)
