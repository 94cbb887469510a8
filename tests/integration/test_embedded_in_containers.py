"""The embedded server beside a root without CAP_SYS_PTRACE, as Docker has it: it cannot inspect other users' processes."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from tests.integration.test_embedded_postgres import log_of, query, server_of

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can drop the capability, with setpriv"
)
USE = """
import asyncio, pathlib, sys
from guestledger.adapters.postgres.admin.embedded import restart_embedded, start_embedded, stop_embedded
place = pathlib.Path(sys.argv[1])
for action in sys.argv[2:]:
    print(asyncio.run(globals()[action](place)))
"""


async def use_in_container(place: Path, *actions: str) -> list[str]:
    """What these functions return there, one after the other."""
    done = await asyncio.to_thread(
        subprocess.run,
        ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable, "-c", USE, place, *actions],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.defpath, "PYTHONPATH": str(Path.cwd())},
        timeout=90,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["plain", "long-" * 30])
async def test_a_running_server_is_found_and_stopped(data_dir: Path, name: str) -> None:
    place = data_dir / name
    url = await start_embedded(place)
    server = server_of(place)
    try:
        socket_dir = str(make_url(url).query["host"])
        assert await use_in_container(place, "start_embedded", "restart_embedded") == [url, socket_dir]
        assert server_of(place) == server
        assert await use_in_container(place, "stop_embedded", "stop_embedded") == ["True", "False"]
        assert not (place / "postgres" / "postmaster.pid").exists()
        assert log_of(place).count("starting PostgreSQL") == 1
    finally:
        await stop_embedded(place)


@pytest.mark.parametrize("recorded", ["another program", "another cluster", "nothing"])
async def test_a_crash_is_noticed_whatever_has_the_recorded_pid(data_dir: Path, recorded: str) -> None:
    place, other = data_dir / "place", data_dir / "other"
    url = await start_embedded(place)
    note = place / "postgres" / "postmaster.pid"
    left_over = note.read_text().splitlines()
    await stop_embedded(place)
    await start_embedded(other)
    owner = (place / "postgres").stat()
    try:
        with subprocess.Popen(["sleep", "100"], user=owner.st_uid, group=owner.st_gid) as program:  # noqa: ASYNC220
            process = {"another program": program.pid, "another cluster": server_of(other), "nothing": 2**22}[recorded]
            note.write_text("\n".join([str(process), *left_over[1:]]))
            assert await use_in_container(place, "stop_embedded", "restart_embedded") == [
                "False",
                str(place / "postgres"),
            ]
            assert program.poll() is None
            program.kill()
        assert await query(url, "SELECT 1") == 1
        assert server_of(place) != process
    finally:
        await stop_embedded(place)
        await stop_embedded(other)
