"""The commands where nobody has set a database up."""

import asyncio
import re
import signal
from pathlib import Path

import msgspec
import pytest

from guestledger.adapters.simulator import Simulator
from tests.e2e import guests
from tests.e2e.command import ended, environment, run, started

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
    assert re.search(r"^1 +\S+ +ConsentRecorded +pending +validate_channel", demo.text, re.MULTILINE)
    assert re.search(r"^\d+ +\S+ +SessionCreated +active", demo.text, re.MULTILINE)
    assert not (data_dir / "demo" / "postgres" / "postmaster.pid").exists()
    assert not processes_in(data_dir)


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
