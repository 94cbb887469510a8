import asyncio
import socket
import subprocess
import sys

import pytest

from tests import leaks


def test_an_open_socket_is_a_leak() -> None:
    with pytest.raises(leaks.Leaked) as caught, leaks.checked():
        left = socket.socket()
    number = left.fileno()
    left.close()
    assert f"file descriptor {number}: socket" in str(caught.value)


def test_a_socket_lost_in_a_cycle_is_a_leak() -> None:
    class Holder:
        def __init__(self) -> None:
            self.me, self.socket = self, socket.socket()

    with pytest.raises(leaks.Leaked, match="unclosed <socket"), leaks.checked():
        Holder()


def test_a_pending_task_is_a_leak() -> None:
    async def wait() -> None:
        await asyncio.sleep(60)

    async def leave() -> None:
        asyncio.create_task(wait())  # noqa: RUF006 - that is the leak
        await asyncio.sleep(0)

    with pytest.raises(leaks.Leaked, match=r"task pending when its loop closed.*wait"), leaks.checked():
        asyncio.run(leave())


def test_a_child_process_is_a_leak() -> None:
    with pytest.raises(leaks.Leaked, match="child process"), leaks.checked():
        child = subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE)
    child.communicate(b"\n")


def test_what_a_shared_fixture_opens_is_no_leak() -> None:
    with leaks.checked(), leaks.shared():
        left = socket.socket()
    left.close()


def test_what_was_closed_is_no_leak() -> None:
    with leaks.checked():
        socket.socket().close()
        subprocess.run((sys.executable, "-c", ""), check=True)
        asyncio.run(asyncio.sleep(0))
