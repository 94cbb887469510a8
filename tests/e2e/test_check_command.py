"""`guestledger replay --check`: over a ledger in one process and several, and over bundles without a database."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from msgspec.structs import replace

from guestledger.adapters.postgres.log.policies import PolicyRecord
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.replay.bundle import write_bundle
from tests import lives, logs, postgres
from tests.e2e.command import Result, assert_one_line, ended, environment, run, started
from tests.unit.histories import in_force
from tests.unit.samples import SESSION

BEGAN = datetime(2026, 3, 10, tzinfo=UTC)
WITHOUT_WEBHOOK = replace(lives.POLICY, webhook_enabled=False)
"""A policy that the log does not have: decisions under it diverge."""
SAME, OTHER = 60, 3
KIND = "RecordAttempt: SessionCreated -> SessionCreated: webhook_owed"
NO_DATABASE = environment()


def sessions() -> list[list[RecordedEvent]]:
    """Sessions that began one a minute; the last few were decided under another policy."""
    made: list[list[RecordedEvent]] = []
    for number in range(SAME + OTHER):
        stream_id = logs.new_stream(BEGAN + timedelta(minutes=number))
        policy = lives.POLICY if number < SAME else WITHOUT_WEBHOOK
        made.append(lives.recorded_life(stream_id, number, policy, sum(map(len, made))))
    return made


class Checked(NamedTuple):
    """A ledger, and where its bundles are."""

    env: dict[str, str]
    histories: list[list[RecordedEvent]]
    bundles: Path

    @property
    def first(self) -> RecordedEvent:
        """The first event that diverges."""
        return next(one for one in self.histories[SAME] if type(one.event).__name__ == "SessionCreated")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def checked(
    runtime_server: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Checked]:
    async with postgres.new_database(runtime_server, migrated_template) as url:
        histories = sessions()
        await logs.write_recorded(url, histories)
        connection = await logs.connect(url)
        await PolicyRecord("guestledger", lives.POLICY).write(connection, -1, BEGAN)
        await connection.close()
        bundles = tmp_path_factory.mktemp("bundles") / "march"
        env = environment(url)
        written = await run("bundle", "--since", "2026-03-01", "-o", str(bundles), env=env)
        assert (written.code, written.err) == (0, f"guestledger: {SAME + OTHER} sessions written to {bundles}\n")
        yield Checked(env, histories, bundles)


def untimed(result: Result) -> Any:
    [report] = result.out
    assert report.pop("seconds") >= 0
    return report


async def test_a_check_without_a_divergence_ends_well_and_counts(checked: Checked):
    until = ("--until", (BEGAN + timedelta(minutes=SAME)).isoformat())
    text, json = await asyncio.gather(
        run("replay", "--check", *until, env=checked.env), run("replay", "--check", *until, "--json", env=checked.env)
    )

    assert (text.code, json.code) == (0, 0)
    events = sum(map(len, checked.histories[:SAME]))
    assert text.text.startswith(f"{SAME} sessions, {events} events, ")
    assert text.text.endswith(": 0 sessions diverge\n")
    report = untimed(json)
    assert (report["sessions"], report["events"], report["first"], report["kinds"]) == (SAME, events, None, [])


async def test_a_check_of_no_session_fails(checked: Checked):
    for place in ((), (str(checked.bundles),)):
        result = await run("replay", "--check", *place, "--until", "2026-01-01", env=checked.env)
        assert_one_line(result, "no session was checked")


async def test_a_divergence_is_shown_in_full_then_the_kinds(checked: Checked):
    result = await run("replay", "--check", env=checked.env)

    assert (result.code, result.err) == (1, "")
    first = checked.first
    head, kind, command, *_ = result.text.splitlines()
    assert head == f"first divergence: session {first.stream_id}, version {first.version}"
    assert kind == f"  {KIND}"
    assert command.startswith("  command RecordAttempt attempt=")
    assert "webhook_owed  False" in " ".join(result.text.split()).replace("webhook_owed ", "webhook_owed  ")
    assert f"# {OTHER} sessions, such as {first.stream_id}\n{KIND}\n" in result.text
    assert result.text.endswith(f": {OTHER} sessions diverge\n")


async def test_what_a_check_prints_is_its_list_of_allowed_kinds(checked: Checked, tmp_path: Path):
    printed = await run("replay", "--check", env=checked.env)
    allowed = tmp_path / "allowed.txt"
    lines = printed.text.splitlines()
    at = lines.index(KIND)
    allowed.write_text("\n".join(["# 2.0 does without the webhook", *lines[at - 1 : at + 1], "ExpireToken not due: X"]))

    text, json = await asyncio.gather(
        run("replay", "--check", "--allow", str(allowed), env=checked.env),
        run("replay", "--check", "--allow", str(allowed), "--json", env=checked.env),
    )

    assert (text.code, json.code) == (0, 0)
    assert f"and {OTHER} in ways that are allowed" in text.text
    assert "# unused in the list of allowed kinds: ExpireToken not due: X" in text.text
    report = untimed(json)
    assert report["first"] is None
    assert [(one["kind"], one["sessions"], one["allowed"]) for one in report["kinds"]] == [(KIND, OTHER, True)]
    assert report["unusedAllowed"] == ["ExpireToken not due: X"]


async def test_several_processes_and_bundles_find_the_same(checked: Checked):
    one, many, files, files_of_many = await asyncio.gather(
        run("replay", "--check", "--json", env=checked.env),
        run("replay", "--check", "--json", "--jobs", "2", env=checked.env),
        run("replay", "--check", "--json", str(checked.bundles), env=NO_DATABASE),
        run("replay", "--check", "--json", str(checked.bundles), "--jobs", "2", env=NO_DATABASE),
    )

    assert [result.code for result in (one, many, files, files_of_many)] == [1] * 4
    report = untimed(one)
    assert report["first"]["id"] == str(checked.first.stream_id)
    assert untimed(many) == report
    # With the due steps of another release as well, if that were another.
    assert untimed(files) == report
    assert untimed(files_of_many) == report


async def test_bundles_are_in_files_for_their_owner_only(checked: Checked):
    [file] = checked.bundles.iterdir()
    assert file.name == "000001.jsonl"
    assert (file.stat().st_mode & 0o777, checked.bundles.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(checked.bundles.parent.iterdir()) == [checked.bundles]


async def test_a_broken_bundle_is_named_with_its_line(checked: Checked, tmp_path: Path):
    [file] = checked.bundles.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b'"attempt":1', b'"attempt":2', 1)
    for name in ("1.jsonl", "2.jsonl"):
        (tmp_path / name).write_bytes(b"".join(lines))

    for jobs in ("1", "2"):
        result = await run("replay", "--check", str(tmp_path), "--jobs", jobs, env=NO_DATABASE)
        assert_one_line(result, ".jsonl, line 5: ", "does not fit its leaf hash", "get the bundle again")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--check", "none.jsonl"), "neither a bundle file nor a directory"),
        (("--check", "x" * 300), "cannot be read"),
        (("--check", "tests/golden"), "has no bundle"),
        (("--check", "--at", "3"), "does not go with --check"),
        (("--check", "--reveal", "--reason", "x"), "does not go with --check"),
        (("--check", "--allow", "none.txt"), "none.txt cannot be read"),
        (("--check", "--jobs", "0"), "--jobs"),
        (("sess_1", "--jobs", "2"), "goes only with --check"),
        (("sess_1", "--since", "1h"), "goes only with --check"),
        (("sess_1", "sess_2"), "name one session"),
        ((), "name one session"),
    ],
)
async def test_wrong_use_is_refused_in_one_line(arguments: tuple[str, ...], words: str):
    assert_one_line(await run("replay", *arguments, env=NO_DATABASE), words)


async def test_an_interrupt_ends_all_processes_at_once(tmp_path: Path):
    life = lives.recorded_life(SESSION, 1)
    data = write_bundle([life] * 2_000, policies=in_force(lives.POLICY), release="1", ledger=SESSION, written_at=BEGAN)
    (tmp_path / "0.jsonl").write_bytes(data)
    for number in range(1, 500):
        os.link(tmp_path / "0.jsonl", tmp_path / f"{number}.jsonl")

    async with started("replay", "--check", str(tmp_path), "--jobs", "2", env=NO_DATABASE) as process:
        async with asyncio.timeout(60):
            while len(children := _children(process.pid)) < 3:  # one more tracks their resources
                await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        result = await ended(process)

    assert result.code == 128 + signal.SIGINT
    assert result.err.splitlines() == ["guestledger: interrupted: not all sessions were checked"]
    async with asyncio.timeout(60):
        while any(map(_runs, children)):
            await asyncio.sleep(0.01)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
