"""`make bench`: run each benchmark on a database of its own and print each figure as soon as it is known.

ONLY=store,opening runs these two. JSON=FILE keeps the figures. The log lines of the last one are in build/bench.log.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import msgspec

from tests.bench.figures import Figure
from tests.postgres import data_directory

BENCHMARKS = (
    "opening",
    "projections",
    "sealing",
    "revealing",
    "serving",
    "store",
    "stepping",
    "tailing",
    "waking",
    "quota",
    "throttling",
    "chance",
    "outages",
    "recovery",
    "growth",
    "snapshot",
    "erasing",
    "asking",
    "checking",
    "console",
)
LOG = Path("build/bench.log")


def main() -> None:
    path = os.environ.get("JSON")
    figures: list[Figure] = []
    for name in chosen(os.environ.get("ONLY", "")):
        figures += measure(name)
        if path:
            Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")


def chosen(only: str) -> list[str]:
    """The names in `only`, or all. Exits with 2 if one is unknown."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        sys.exit(2)
    return names or [*BENCHMARKS]


def measure(name: str) -> list[Figure]:
    """Run one benchmark."""
    module = import_module(f"tests.bench.{name}")
    print(f"\n{name}: {summary(module)}", flush=True)
    began = time.monotonic()
    with data_directory() as directory, stderr_in(LOG) as log:
        figures = asyncio.run(printed(module.run(directory)))
        logged = f", log lines in {LOG}" if log.tell() else ""
    print(f"  {time.monotonic() - began:.0f} s{logged}", flush=True)
    return figures


def summary(module: ModuleType) -> str:
    """The first paragraph of the module's docstring."""
    return " ".join((module.__doc__ or "").partition("\n\n")[0].split())


async def printed(figures: AsyncIterator[Figure]) -> list[Figure]:
    """Print each figure as it comes."""
    seen = []
    async for figure in figures:
        print(figure, flush=True)
        seen.append(figure)
    return seen


@contextmanager
def stderr_in(path: Path) -> Iterator[BinaryIO]:
    """Write what this process and its children log to a file: between the figures it would make them unreadable."""
    path.parent.mkdir(exist_ok=True)
    terminal = os.dup(2)
    with path.open("wb") as log:
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


if __name__ == "__main__":
    main()
