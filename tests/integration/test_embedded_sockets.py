"""The embedded server's socket, where the data directory's path cannot be used for one."""

import os
import pwd
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from guestledger.adapters.postgres.admin.embedded_cluster import Cluster
from tests.integration.test_embedded_postgres import as_root, query, server_of


def socket_dir_of(url: str) -> Path:
    return Path(str(make_url(url).query["host"]))


@pytest.fixture
async def crashed(data_dir: Path) -> AsyncIterator[tuple[Path, Path]]:
    """A data directory whose path is too long for a socket, and the socket's directory, which its killed server left."""
    directory = data_dir / ("long-" * 30)
    socket_dir = socket_dir_of(await start_embedded(directory))
    os.kill(server_of(directory), signal.SIGKILL)
    yield directory, socket_dir
    await stop_embedded(directory)


async def test_the_socket_directory_of_a_killed_server_is_removed_at_the_next_start(crashed: tuple[Path, Path]) -> None:
    directory, left = crashed
    assert (left / ".s.PGSQL.5432").exists()

    url = await start_embedded(directory)

    assert not left.exists()
    assert await query(url, "SELECT 1") == 1
    await stop_embedded(directory)
    assert not socket_dir_of(url).exists()
    assert not (directory / "socket-directory").exists()


async def test_the_socket_directory_of_a_killed_server_is_removed_by_a_stop(crashed: tuple[Path, Path]) -> None:
    directory, left = crashed

    assert not await stop_embedded(directory)

    assert not left.exists()


async def test_a_server_that_was_killed_a_moment_ago_is_not_waited_for(
    crashed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, left = crashed
    really, still_seen = Cluster._server, iter([server_of(directory)])
    monkeypatch.setattr(Cluster, "_server", lambda cluster: next(still_seen, None) or really(cluster))

    assert not await stop_embedded(directory)

    assert not left.exists()


@as_root
@pytest.mark.parametrize("planted", ["directory of another user", "link"])
async def test_what_another_user_put_in_place_of_a_socket_directory_stays(
    crashed: tuple[Path, Path], planted: str
) -> None:
    directory, left = crashed
    moved = left.with_name(f"{left.name}-moved")
    left.rename(moved)
    if planted == "link":
        left.symlink_to(moved)
    else:
        left.mkdir()
        (left / ".s.PGSQL.5432").touch()
        nobody = pwd.getpwnam("nobody")
        os.chown(left, nobody.pw_uid, nobody.pw_gid)

    url = await start_embedded(directory)

    assert await query(url, "SELECT 1") == 1
    assert (left / ".s.PGSQL.5432").exists()
    left.unlink() if planted == "link" else shutil.rmtree(left)
    shutil.rmtree(moved)
