"""Benchmarks still run, on a small amount of work. Those with peers, and those that cannot be made small, are not here."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SMALL: dict[str, dict[str, Any]] = {
    "opening": {"SESSIONS": 20, "ROUNDS": 1},
    "sealing": {"SESSIONS": 20, "ROUNDS": 2},
    "revealing": {"ENTRIES": 20, "ROUNDS": 1},
    "growth": {"SMALL": 1_000, "LARGE": 2_000, "TIMES": 5},
    "snapshot": {"SESSIONS": 100, "ROUND": 20, "LAST": 2},
    "serving": {"SESSIONS": 10, "READS": 10, "ROUNDS": 1},
    "tailing": {"EVENTS": 10},
    "waking": {"HINTED": 2, "UNHINTED": 1},
    "chance": {"REQUESTS": 20},
    "erasing": {"EVENTS": 1_000, "SESSIONS": 5, "ROUNDS": 1},
    "asking": {"EVENTS": 1_000, "WAITING": 50, "ADDRESSES": 50, "TIMES": 3},
    "checking": {"FEW": 20, "SESSIONS": 40, "TEMPLATES": 10},
}


@pytest.mark.parametrize("name", SMALL)
async def test_a_benchmark_runs_on_a_small_amount_of_work(
    name: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"tests.bench.{name}")
    for constant, value in SMALL[name].items():
        monkeypatch.setattr(module, constant, value)

    assert [figure async for figure in module.run(data_dir)]
