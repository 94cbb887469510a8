"""The commands where nobody has set a database up."""

import asyncio
import re
import shlex
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import msgspec
import pytest

from guestledger.adapters.simulator import Simulator
from tests.e2e import guests
from tests.e2e.command import PROGRAM, ROOT, Result, assert_one_line, ended, environment, run, started

HAS_PROC = Path("/proc/self").exists()


async def test_demo_shows_its_results_and_leaves_no_server_behind(data_dir: Path):
    demo = await run("demo", env=environment(data_dir=str(data_dir)))

    assert demo.code == 0, demo.err
    assert "Outcome: 250 active\n" in demo.text
    figures = dict(re.findall(r"^(\w[\w ]+?)  +(\S+)", demo.text, re.MULTILINE))
    assert (figures["success rate"], figures["created"]) == ("1.00", "250")
    assert 0 < int(figures["throttled"]) <= 90, "as many as were under way when the quota was first exceeded"
    audit = msgspec.json.decode(re.search(r"^\{.*?^\}", demo.text, re.MULTILINE | re.DOTALL)[0])
    assert (audit["auditType"], audit["complianceStatus"]) == ("guest_session_initialization", "verified")
    assert re.search(r"^ *1 +\S+ +ConsentRecorded +pending", demo.text, re.MULTILINE)
    assert re.search(r"^ *\d+ +\S+ +SessionCreated +active", demo.text, re.MULTILINE)
    assert not (data_dir / "demo" / "postgres" / "postmaster.pid").exists()
    assert not processes_in(data_dir)


async def test_closing_words_of_the_demo_lead_to_its_database(data_dir: Path):
    # Quotes and a dollar, and a database that is set: none of these changes where the words lead.
    place = data_dir / "it's $HOME"
    env = environment("postgresql://127.0.0.1:1/other", data_dir=str(place))
    demo = await run("demo", "--sessions", "3", env=env, program=PROGRAM)  # its last words name it
    assert demo.code == 0, demo.err
    look, stop = demo.text.splitlines()[-2:]

    looked = await in_shell(look, env)
    assert looked.text.count(" active ") == 3, looked
    assert processes_in(place) or not HAS_PROC
    stopped = await in_shell(stop, env)
    assert stopped == (0, "", "guestledger: the embedded database is stopped\n")
    assert not processes_in(place)


async def in_shell(command: str, env: dict[str, str]) -> Result:
    program = f"{shlex.quote(sys.executable)} -m guestledger.adapters.cli.main"
    module = str(ROOT / "src" / "guestledger" / "adapters" / "cli" / "main.py")
    assert module in command or "main.py" in command
    words = re.sub(r"\S*main\.py", program, command)
    process = await asyncio.create_subprocess_shell(words, env=env, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    return await ended(process)


async def test_a_misspelt_database_url_starts_no_server(data_dir: Path):
    misspelt = {"GUESTLEDGER_DATABSE_URL": "postgresql://db/ledger"}

    result = await run("sessions", env=environment(data_dir=str(data_dir)) | misspelt)

    assert_one_line(result, "GUESTLEDGER_DATABSE_URL is not a setting: did you mean GUESTLEDGER_DATABASE_URL?")
    assert not list(data_dir.iterdir())  # noqa: ASYNC240


@pytest.mark.skipif(not HAS_PROC, reason="it takes /proc to see the server")
async def test_stopped_demo_leaves_no_server_behind(data_dir: Path):
    async with started("demo", env=environment(data_dir=str(data_dir))) as process:
        while len(processes_in(data_dir)) < 3:  # it has begun to serve
            assert process.returncode is None
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        result = await ended(process)

    assert result.code == 128 + signal.SIGTERM, result.err
    assert not processes_in(data_dir)


async def test_concurrent_commands_share_one_embedded_server(data_dir: Path, tmp_path: Path):
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files.append(guests.write_file(tmp_path / name, map(guests.guest, range(20))))
    async with Simulator() as simulator:
        env = environment(None, simulator, data_dir=str(data_dir))

        opened = await asyncio.gather(*(run("open", file, env=env) for file in files))

        assert [(result.code, result.err, len(result.out)) for result in opened] == [(0, "", 20)] * 2
    assert len(processes_in(data_dir)) > 1 or not HAS_PROC
    stopped = await run("db", "stop", env=env)
    assert (stopped.code, stopped.text) == (0, "")
    assert not processes_in(data_dir)
    metrics = await run("metrics", "--json", env=env)
    assert metrics.out[0]["outcomes"]["created"] == 40


def processes_in(data_dir: Path) -> list[str]:
    """The processes whose working directory lies below: a PostgreSQL server's does."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink().is_relative_to(data_dir):
                found.append(process.name)
        except OSError:
            continue  # it has ended meanwhile, or is not ours to look at
    return found
