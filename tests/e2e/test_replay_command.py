"""`guestledger replay`: the ways in which it shows one session."""

import asyncio
import os
import pty
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest_asyncio

from tests import logs, postgres
from tests.e2e.command import Result, assert_one_line, ended, environment, run, started
from tests.unit.histories import troubled


class Replayed(NamedTuple):
    """A ledger with one session."""

    env: dict[str, str]
    id: str

    async def run(self, *options: str) -> Result:
        return await run("replay", self.id, *options, env=self.env)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replayed(runtime_server: str, migrated_template: str) -> AsyncIterator[Replayed]:
    async with postgres.new_database(runtime_server, migrated_template) as url:
        id_ = await logs.write_events(url, [recorded.event for recorded in troubled()], after=-1)
        yield Replayed(environment(url) | {"NO_COLOR": "1"}, str(id_))


async def test_timeline_names_the_waits(replayed: Replayed) -> None:
    shown = await replayed.run()
    assert (shown.code, shown.err) == (0, "")
    assert replayed.id in shown.text
    assert "CreationThrottled" in shown.text


async def test_json_has_changes_decision_and_waits_of_each_frame(replayed: Replayed) -> None:
    [whole] = (await replayed.run("--json")).out
    frame = whole["frames"][3]
    assert frame["event"] == "CreationThrottled"
    assert {"field": "throttles", "before": 0, "after": 1} in frame["changes"]
    assert frame["decision"]["command"] == "RecordAttempt"
    assert frame["decision"]["arguments"]["outcome"]["retry_after"]["given"] == "600"
    assert frame["decision"]["versions"] == [4]
    assert frame["decision"]["isReproduced"] is True
    assert {change["step"] for change in frame["dueChanges"]} == {
        "settle_attempt",
        "create_session",
        "enforce_deadline",
    }
    for one in whole["frames"]:
        assert one["passedMs"] == sum(part["ms"] for part in one["waits"])


async def test_difference_is_between_two_versions_or_times(replayed: Replayed) -> None:
    versions, times, printed = await asyncio.gather(
        replayed.run("--diff", "2", "8", "--json"),
        replayed.run("--diff", "2001-01-01", "2100-01-01", "--json"),
        replayed.run("--diff", "2", "8"),
    )
    [found] = versions.out
    assert (found["before"], found["after"]) == (
        {"version": 2, "status": "pending"},
        {"version": 8, "status": "active"},
    )
    assert {"field": "attempts", "before": 0, "after": 3} in found["changes"]
    assert times.out[0]["before"]["version"] == 0
    assert "attempts      0 → 3" in printed.text


async def test_step_without_a_terminal_shows_all_events(replayed: Replayed) -> None:
    whole, part = await asyncio.gather(replayed.run("--step"), replayed.run("--step", "--at", "2"))
    assert (whole.code, whole.err) == (0, "")
    assert [f"event {number} of 12: " in whole.text for number in range(1, 13)] == [True] * 12
    assert part.text.count(" of 2: ") == 2


async def test_step_on_a_terminal_goes_where_the_keys_say(replayed: Replayed) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"\n5\np\nnonsense\nq\n")
    async with started("replay", replayed.id, "--step", env=replayed.env, stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        text = await asyncio.to_thread(_read_to_the_end, ours)
        result = await ended(process)
    os.close(ours)
    assert (result.code, result.err) == (0, "")
    at = [text.index(f"event {number} of 12") for number in (1, 2, 5, 4)]
    assert at == sorted(at)
    assert "event 6 of 12" not in text


def _read_to_the_end(descriptor: int) -> str:
    found = b""
    try:
        while chunk := os.read(descriptor, 65_536):
            found += chunk
    except OSError:  # the other side is closed
        pass
    return found.decode()


async def test_page_is_written_once_for_its_owner_alone(replayed: Replayed, tmp_path: Path) -> None:
    page = tmp_path / "session.html"

    written, again, nowhere = (
        await replayed.run("--html", str(page)),
        await replayed.run("--html", str(page)),
        await replayed.run("--html", str(tmp_path / "none" / "session.html")),
    )

    assert (written.code, written.text) == (0, "")
    assert "12 events written" in written.err
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert replayed.id in page.read_text()
    assert_one_line(again, str(page), "exists already")
    assert_one_line(nowhere, "cannot be written")
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["session.html"]
