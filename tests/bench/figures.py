"""What a benchmark measured, and how it is printed. A figure means something only beside what it is compared with."""

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. `against` names the peer or limit of the same run, `ratio` is this value over that one."""

    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None

    def __str__(self) -> str:
        compared = "" if self.ratio is None else f"{self.ratio:8.2f} of {self.against}"
        return f"  {self.name:<68} {self.value:>11,.1f} {self.unit:<12}{compared}".rstrip()
