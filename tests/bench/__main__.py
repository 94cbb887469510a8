"""`make bench`: run every benchmark on a database of its own, print the figures, and write them to `$JSON` if it is set."""

import asyncio
import os
from pathlib import Path

import msgspec

from tests.bench import (
    growth,
    opening,
    outages,
    projections,
    quota,
    recovery,
    stepping,
    store,
    tailing,
    waking,
)
from tests.bench.figures import Figure, show
from tests.postgres import data_directory

BENCHMARKS = (
    opening.run,
    projections.run,
    store.run,
    stepping.run,
    tailing.run,
    waking.run,
    quota.run,
    outages.run,
    recovery.run,
    growth.run,
)


def measure() -> list[Figure]:
    figures: list[Figure] = []
    for benchmark in BENCHMARKS:
        with data_directory() as directory:
            figures += asyncio.run(benchmark(directory))
    return figures


def main() -> None:
    figures = measure()
    show(figures)
    if path := os.environ.get("JSON"):
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")


main()
