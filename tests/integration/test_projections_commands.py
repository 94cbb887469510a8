"""`guestledger projections list`, `rebuild` and `verify`, for programs and for people."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from tests import logs

EVENTS = 300
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def run(database_url: str) -> Run:
    """Runs `guestledger projections …` on a log of `EVENTS` events; gives the exit code, stdout and stderr."""
    await logs.write(database_url, EVENTS)

    async def run(*arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "guestledger.adapters.cli.main",
            "projections",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"GUESTLEDGER_DATABASE_URL": database_url},
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    return run


def objects(out: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in out.splitlines()]


async def test_list_shows_how_far_behind_each_projection_is(run: Run) -> None:
    code, out, err = await run("list", "--json")
    assert (code, err) == (0, "")
    found = objects(out)
    assert {one["projection"] for one in found} == set(PROJECTIONS)
    for one in found:
        assert (one["position"], one["head"], one["lagEvents"]) == (-1, EVENTS - 1, EVENTS)
        assert one["lagSeconds"] > 0
        assert (one["error"], one["stoppedAt"], one["rebuiltTo"]) == (None, None, None)
    code, out, _ = await run("list")
    assert code == 0
    assert all(f"{name} " in out for name in PROJECTIONS)
    assert str(EVENTS) in out


async def test_verify_exits_1_and_names_rows_that_rebuild_corrects(run: Run, database_url: str) -> None:
    code, out, err = await run("rebuild", "--json")
    assert (code, err) == (0, "")
    assert {one["projection"] for one in objects(out)} == set(PROJECTIONS)

    connection = await logs.connect(database_url)
    await connection.execute("UPDATE guestledger.checkpoints SET position = -1")
    await connection.close()
    assert (await run("verify"))[0] == 0  # an empty projection of nothing

    connection = await logs.connect(database_url)
    await connection.execute("UPDATE guestledger.checkpoints SET position = 99")
    await connection.close()
    code, out, _ = await run("verify", "audit_log", "--json")
    [found] = objects(out)
    assert (code, found["same"], found["position"]) == (1, False, 99)
    assert all(row.startswith("audit_log ") and row.endswith(" is missing") for row in found["differing"])
    code, out, _ = await run("verify", "audit_log")
    assert code == 1
    assert "`guestledger projections rebuild audit_log` repairs them" in out

    code, out, _ = await run("rebuild", "audit_log")
    assert code == 0
    assert out.startswith("audit_log: rebuilt from the log; ")
    code, out, _ = await run("verify", "audit_log", "--json")
    [found] = objects(out)
    assert (code, found["same"], found["digest"], found["differing"]) == (0, True, found["rebuiltDigest"], [])


@pytest.mark.parametrize("command", ["rebuild", "verify"])
async def test_an_unknown_name_is_refused_in_one_line(run: Run, command: str) -> None:
    code, out, err = await run(command, "session")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'session': there are sessions, session_metrics, audit_log" in err
