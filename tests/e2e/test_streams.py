"""Standard streams as shells, supervisors and other programs hand them over."""

import asyncio
import fcntl
import os
import pty
import signal
import sys
import tty
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from guestledger.adapters.cli.batch import MAX_UNANSWERED_BYTES
from guestledger.adapters.cli.lines import CHUNK
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests import logs
from tests.e2e import guests, raw_log
from tests.e2e.command import LIMIT_S, ROOT, Result, assert_one_line, ended, environment, run, started

LINES = [guests.as_lines([guests.guest(number)]) for number in range(4)]
NOT_UTF_8 = {"PYTHONIOENCODING": "ascii"}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
def env(database_url: str, simulator: Simulator) -> dict[str, str]:
    return environment(database_url, simulator)


async def run_in_shell(redirection: str, *arguments: str, env: dict[str, str], stdin: bytes = b"") -> Result:
    command = ("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "guestledger.adapters.cli.main")
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, env=env, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    return await ended(process, stdin)


def statuses(result: Result) -> list[tuple[int, str]]:
    return [(answer["line"], answer["status"]) for answer in result.out]


async def test_no_line_of_a_nonblocking_stdin_is_lost(env: dict[str, str], simulator: Simulator):
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    async with started("open", "-", env=env, stdin=readable) as process:
        assert process.stdout is not None
        for number, line in enumerate(LINES, 1):
            half = len(line) // 2
            os.write(writable, line[:half])
            await asyncio.sleep(0.2)  # it finds nothing to read meanwhile
            os.write(writable, line[half:])
            assert f'"line":{number},'.encode() in await process.stdout.readline()
        os.close(writable)
        opened = await ended(process)
    os.close(readable)
    assert (opened.code, opened.err) == (0, "")
    assert len(raw_log.remote_sessions(simulator)) == len(LINES)


async def test_stdin_is_read_from_where_it_stands(env: dict[str, str], tmp_path: Path, simulator: Simulator):
    file = tmp_path / "requests.jsonl"
    file.write_bytes(b"".join(LINES))
    opened = await run_in_shell(f"< {file}; ", "open", "-", env=env)
    assert len(opened.out) == len(LINES)

    with file.open("rb") as source:
        source.seek(len(LINES[0]))
        async with started("open", "-", env=env, stdin=source.fileno()) as process:
            rest = await ended(process)

    assert statuses(rest) == [(1, "active"), (2, "active"), (3, "active")]
    assert len(raw_log.remote_sessions(simulator)) == 2 * len(LINES) - 1


async def test_lines_before_a_failing_read_are_answered(env: dict[str, str]):
    terminal, other_end = pty.openpty()
    tty.setraw(other_end)
    os.write(other_end, LINES[0] + LINES[1] + LINES[2][:20])
    async with started("open", "-", env=env, stdin=terminal) as process:
        assert process.stdout is not None
        first = await process.stdout.readline()
        os.close(other_end)  # reading now fails with EIO
        opened = await ended(process)
    os.close(terminal)

    assert b'"line":1,"id"' in first
    assert statuses(opened) == [(2, "active")]
    assert_one_line(opened, "cannot be read after line 2", "Input/output error")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
async def test_a_file_in_utf_16_is_refused_in_one_line(encoding: str, env: dict[str, str], tmp_path: Path):
    file = tmp_path / "requests.jsonl"
    file.write_bytes(LINES[0].decode().encode(encoding))

    opened = await run("open", str(file), env=env)

    assert_one_line(opened, str(file), "UTF-16", "iconv")
    assert not opened.text


async def test_input_that_cannot_be_read_is_one_line(env: dict[str, str], tmp_path: Path):
    closed, write_only, directory = await asyncio.gather(
        run_in_shell("<&-", "open", "-", env=env),
        run_in_shell(f"0> {tmp_path}/file", "open", "-", env=env),
        run("open", str(tmp_path), env=env),
    )

    assert_one_line(closed, "-", "Bad file descriptor")
    assert_one_line(write_only, "-", "Bad file descriptor")
    assert_one_line(directory, str(tmp_path), "Is a directory")


@pytest.mark.parametrize(
    ("redirection", "reason"), [("> /dev/full", "No space left on device"), (">&-", "stdout is closed")]
)
async def test_output_that_cannot_be_written_is_one_line(redirection: str, reason: str, database_url: str):
    await logs.write(database_url, 500)
    env = environment(database_url)
    commands = (("sessions", "--json"), ("sessions",), ("events",), ("audit", "--json"), ("metrics",), ("--help",))

    for result in await asyncio.gather(*(run_in_shell(redirection, *command, env=env) for command in commands)):
        assert_one_line(result, "output cannot be written", reason)


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2>&-"])
async def test_without_stderr_the_exit_code_is_the_same(redirection: str, env: dict[str, str]):
    shown, worked, wrong, unknown = await asyncio.gather(
        run_in_shell(redirection, "sessions", "--json", env=env),
        run_in_shell(redirection, "worker", "--until-idle", env=env),
        run_in_shell(redirection, "replay", "nobody", env=env),
        run_in_shell(redirection, "teleport", env=env),
    )

    assert [result.code for result in (shown, worked, wrong, unknown)] == [0, 0, 2, 2]
    assert not shown.err + worked.err + wrong.err + wrong.text + unknown.err


async def test_a_nonblocking_stdout_gets_the_whole_output(database_url: str):
    await logs.write(database_url, 500)
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, 4096)
    async with started("events", "--json", env=environment(database_url), stdout=writable) as process:
        os.close(writable)
        await asyncio.sleep(0.5)  # the pipe is full long before
        with os.fdopen(readable, "rb") as pipe:
            lines = (await asyncio.to_thread(pipe.read)).splitlines()
        result = await ended(process)

    assert (result.code, result.err) == (0, "")
    assert len(lines) == 500


async def test_a_list_ends_in_silence_when_its_reader_leaves(database_url: str):
    await logs.write(database_url, 5_000)
    readable, writable = os.pipe()
    async with started("events", env=environment(database_url), stdout=writable) as process:
        os.close(writable)
        await asyncio.to_thread(os.read, readable, 10)
        os.close(readable)
        result = await ended(process)

    assert (result.code, result.err) == (1, "")


async def test_open_finishes_work_in_flight_when_its_reader_leaves(database_url: str, tmp_path: Path):
    file = guests.write_file(tmp_path, [guests.guest(number) for number in range(300)])
    readable, writable = os.pipe()
    async with Simulator(SimulatorConfig(slow_ms=300, honour_idempotency_key=False)) as simulator:
        async with started("open", file, env=environment(database_url, simulator), stdout=writable) as process:
            os.close(writable)
            await asyncio.to_thread(os.read, readable, 10)
            os.close(readable)
            opened = await ended(process)
        assert_one_line(opened, "output cannot be written: Broken pipe", "stopped after line 300", "guestledger worker")
        counts = await raw_log.counts(database_url)
        assert counts["CreationAttempted"] == counts["SessionCreated"] >= 1
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)


async def test_a_slow_reader_of_open_costs_no_session(database_url: str, tmp_path: Path):
    file = guests.write_file(tmp_path, [guests.guest(number) for number in range(200)])
    readable, writable = os.pipe()
    fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, 4096)
    async with (
        asyncio.timeout(LIMIT_S),
        Simulator() as simulator,
        started("open", file, env=environment(database_url, simulator), stdout=writable) as process,
    ):
        os.close(writable)
        while (await raw_log.counts(database_url))["SessionCreated"] < 200:  # although nobody reads the answers
            await asyncio.sleep(0.05)
        with os.fdopen(readable, "rb") as pipe:
            answers = (await asyncio.to_thread(pipe.read)).splitlines()
        opened = await ended(process)
    assert (opened.code, opened.err, len(answers)) == (0, "", 200)


async def test_an_ascii_terminal_gets_escapes_and_valid_json(simulator: Simulator, env: dict[str, str]):
    request = guests.guest(1, channelId="ch_é😀", subjectId="Ångström")
    opened = await run("open", "-", env=env | NOT_UTF_8, stdin=guests.as_lines([request]))
    json, clear, table, audit, unknown = await asyncio.gather(
        run("sessions", "--json", env=env | NOT_UTF_8),
        run("events", "--json", "--reveal", "--reason", "test", "--by", "tests", env=env | NOT_UTF_8),
        run("sessions", env=env | NOT_UTF_8),
        run("audit", env=env | NOT_UTF_8 | {"COLUMNS": "80", "TTY_COMPATIBLE": "1"}),
        run("replay", "sess_é", env=env | NOT_UTF_8),
    )

    assert [answer["channelId"] for answer in (*opened.out, *json.out)] == ["ch_é😀"] * 2
    assert clear.out[0]["data"]["guest"]["subject_id"] == "Ångström"
    assert "ch_\\xe9\\U0001f600" in table.text
    assert (opened.code, json.code, clear.code, table.code, audit.code) == (0, 0, 0, 0, 0)
    assert_one_line(unknown, "sess_\\xe9")
    assert (opened.text + json.text + clear.text + table.text + audit.text).isascii()


async def test_open_is_stopped_while_a_pipe_has_no_writer(env: dict[str, str], tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for command in (("open", str(fifo)), ("resolve", "sess_1", "adopt", "--reason", "r", "--session-id", "s",
                                          "--expires-at", "2030-01-01", "--token-file", str(fifo))):  # fmt: skip
        async with asyncio.timeout(LIMIT_S), started(*command, env=env) as process:
            await has_a_thread(process.pid)
            process.send_signal(signal.SIGTERM)
            result = await ended(process)
        assert result.code == 128 + signal.SIGTERM
        assert result.err.count("\n") == 1


async def has_a_thread(process: int) -> None:
    """Return once the process waits for a file beside its event loop."""
    while len(list(Path(f"/proc/{process}/task").iterdir())) < 2:  # noqa: ASYNC240 - it is no disk
        await asyncio.sleep(0.05)


async def test_open_reads_ahead_by_bytes(database_url: str, tmp_path: Path):
    fat = LINES[0].replace(b"{", b"{" + b" " * 60_000, 1)
    file = tmp_path / "requests.jsonl"
    file.write_bytes(fat * 1_000)
    async with (
        asyncio.timeout(LIMIT_S),
        Simulator(SimulatorConfig(hang_share=1, hang_s=120)) as simulator,
        started("open", str(file), env=environment(database_url, simulator)) as process,
    ):
        while position_in(file, process.pid) < MAX_UNANSWERED_BYTES:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)  # time enough to read on, if it would
        assert position_in(file, process.pid) < MAX_UNANSWERED_BYTES + 4 * CHUNK


def position_in(file: Path, process: int) -> int:
    """How far a process has read the file."""
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if descriptor.readlink() == file:
                return int(Path(f"/proc/{process}/fdinfo/{descriptor.name}").read_text().split()[1])
    return 0
