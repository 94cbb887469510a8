"""`guestledger replay --check`: reads the log, or bundles, in one process or several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import typer

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.check_report import write_report
from guestledger.adapters.cli.processes import in_processes
from guestledger.adapters.cli.running import fail, opened, run
from guestledger.adapters.cli.sources import SUFFIX, read_file

if TYPE_CHECKING:
    from guestledger.engine.replay.check import CheckReport

_PARTS_A_JOB = 4
"""Parts are of unequal size: with more of them than processes, no process is idle for long."""


class Part(NamedTuple):
    """What one process checks at a time: the sessions that began in a time, in the log or in one bundle file."""

    since: datetime | None
    until: datetime | None
    file: Path | None = None

    def includes(self, moment: datetime) -> bool:
        """Whether a session that began then belongs to it."""
        return (self.since is None or self.since <= moment) and (self.until is None or moment < self.until)


def check(
    places: Sequence[str],
    *,
    since: datetime | None,
    until: datetime | None,
    jobs: int,
    allow: Path | None,
    json: bool,
) -> NoReturn:
    """Check the log, or the bundle files and directories in `places`, and end with exit code 1 after a divergence."""
    allowed = _allowed(allow)
    files = [file for place in places for file in _files(Path(place))]
    began = time.monotonic()
    report = run(_report(files, since, until, jobs), interrupted="interrupted: not all sessions were checked")
    seconds = time.monotonic() - began
    if not report.sessions:
        fail("no session was checked: none is there, or none began between --since and --until")
    write_report(report, allowed, seconds=seconds, json=json)
    raise typer.Exit(0 if report.first(allowed) is None else 1)


def _allowed(path: Path | None) -> tuple[str, ...]:
    from guestledger.engine.replay.check import allowed_kinds

    if path is None:
        return ()
    try:
        return allowed_kinds(path.read_text("utf-8"))
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        fail(f"{path} is no list of allowed kinds: it is not UTF-8")


def _files(place: Path) -> list[Path]:
    try:
        if place.is_file():
            return [place]
        found = sorted(file for file in place.iterdir() if file.suffix == SUFFIX)
    except FileNotFoundError:
        raise typer.BadParameter(
            f"{str(place)!r} is neither a bundle file nor a directory of them: without one, the whole log is checked",
            param_hint="BUNDLE",
        ) from None
    except OSError as error:
        fail(f"{place} cannot be read: {error.strerror}")
    if not found:
        raise typer.BadParameter(f"directory {str(place)!r} has no bundle: none of its files ends in {SUFFIX}")
    return found


async def _report(files: Sequence[Path], since: datetime | None, until: datetime | None, jobs: int) -> CheckReport:
    from guestledger.engine.replay.check import CheckReport

    total = CheckReport()
    with show.progress(None, "sessions checked") as bar:

        def advanced(sessions: int) -> None:
            bar.update(bar.task_ids[0], completed=total.sessions + sessions)

        if files:
            parts = [Part(since, until, file) for file in files]
        else:
            parts = [Part(since, until)] if jobs == 1 else await _parts(since, until, jobs)
        async for report in _each(parts, jobs, advanced):
            total.add(report)
            advanced(0)
    return total


async def _parts(since: datetime | None, until: datetime | None, jobs: int) -> list[Part]:
    """The time from the first session on in equal parts."""
    from guestledger.engine.log.recorded import began_at

    async with opened() as ledger:
        head = await ledger.events.head()
        ends = [one.recorded_at async for batch in ledger.events.read(after=head - 1) for one in batch]
        first = since
        async for batch in ledger.events.read_sessions(since=since, until=until):
            first = began_at(batch[0][0].stream_id)
            break
    if first is None or not ends:
        return [Part(since, until)]
    end = min(until or ends[-1], ends[-1])
    step = (end - first) / (jobs * _PARTS_A_JOB)
    if step <= timedelta(0):
        return [Part(since, until)]
    bounds = [since, *(first + step * number for number in range(1, jobs * _PARTS_A_JOB)), until]
    return [Part(*both) for both in pairwise(bounds)]


async def _each(parts: Sequence[Part], jobs: int, advanced: Callable[[int], None]) -> AsyncIterator[CheckReport]:
    if jobs == 1 or len(parts) == 1:
        for part in parts:
            yield await _checked(part, advanced)
        return
    async for result in in_processes(jobs, check_part, parts):
        if isinstance(result, str):
            fail(result)
        yield result


def check_part(part: Part) -> CheckReport | str:
    """Check one part in a process of its own. Returns the line of a `GuestledgerError`, which cannot be pickled."""
    from guestledger.adapters.cli.error_lines import error_line
    from guestledger.adapters.cli.running import collect_garbage_rarely

    collect_garbage_rarely()
    try:
        return asyncio.run(_checked(part, lambda _sessions: None))
    except guestledger.GuestledgerError as error:
        return error_line(error)


async def _checked(part: Part, advanced: Callable[[int], None]) -> CheckReport:
    from guestledger.engine.log.recorded import began_at
    from guestledger.engine.replay.check import CheckReport

    report = CheckReport()
    if part.file is not None:
        bundle = read_file(part.file)
        for session in bundle.sessions:
            if part.includes(began_at(session.id)):
                report.check(session.history, bundle.policies, session.due)
        await asyncio.sleep(0)  # here it can be interrupted
        return report
    async with opened() as ledger:
        policies = await ledger.replay.policies()
        async for batch in ledger.events.read_sessions(since=part.since, until=part.until):
            for history in batch:
                report.check(history, policies)
            advanced(report.sessions)
    return report
