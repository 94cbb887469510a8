"""The goodput that the limiter finds at servers that throttle, over the best that is possible there. In virtual time.

The best is the quota, or for noise what the promise allows that nobody sends before a Retry-After has passed. A queue without
end, 64 requests in flight, at most 700 a second; 180 s, of which the first 60 do not count. Eight workers claim with
reservations, and record their attempts late and in lumps, as under the lock of a busy ledger.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median

from tests.bench.figures import Figure
from tests.reserving import WORKED_ROWS, work
from tests.throttling import ROWS, SPAN_S, WARM_S, Changing, Row, Seen, goodput, simulate, throttled_share

SEEDS = (1, 2, 3)


async def run(_data_dir: Path) -> AsyncIterator[Figure]:
    """Three figures a row."""
    for row in ROWS:
        runs = [simulate(row.server(), seed, late_s=row.late_s) for seed in SEEDS]
        for figure in _figures(row.name, runs, row, row.least, 1):
            yield figure
    for worked in WORKED_ROWS:
        runs = [work(worked, seed) for seed in SEEDS]
        for figure in _figures(f"eight workers, {worked.name}", runs, worked.row, worked.least, 2):
            yield figure
    for burst in (1, 50):
        for figure in _changes(burst):
            yield figure


def _figures(name: str, runs: list[list[Seen]], row: Row, least: float, most: int) -> Iterator[Figure]:
    rates = [goodput(seen, WARM_S, SPAN_S) for seen in runs]
    yield Figure(
        name=name,
        value=median(rates),
        unit="requests/s",
        against=f"the best, at least {least}; worst run {min(rates) / row.best:.2f}",
        ratio=median(rates) / row.best,
    )
    yield _share(runs, WARM_S, SPAN_S, f"throttled (limit {most})" if row.has_quota else "throttled")
    yield _early(runs)


def _changes(burst: int) -> Iterator[Figure]:
    runs = [simulate(Changing(50, burst, 1.0), seed, 270) for seed in SEEDS]
    yield _early(runs)
    yield _share(runs, 100, 110, f"bucket 50/s, burst {burst}, halved 10 s ago: throttled (limit 5)")
    rates = [goodput(seen, 240, 270) for seen in runs]
    yield Figure(
        name=f"bucket 50/s, burst {burst}, doubled 60 s ago",
        value=median(rates),
        unit="requests/s",
        against="the best, at least 0.8",
        ratio=median(rates) / 50,
    )


def _early(runs: list[list[Seen]]) -> Figure:
    early = sum(one.early for seen in runs for one in seen)
    return Figure(name="  sent before Retry-After had passed (limit 0)", value=early, unit="requests")


def _share(runs: list[list[Seen]], since: float, until: float, name: str) -> Figure:
    share = max(throttled_share(seen, since, until) for seen in runs)
    return Figure(name=f"  {name}", value=100 * share, unit="%")
