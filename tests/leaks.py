"""Find what a test leaves open: database connections, tasks, file descriptors and child processes.

Each test costs two short looks at what is open. Garbage is collected only when something new is open at the end.
"""

import asyncio
import gc
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import asyncpg
import pytest

_ROOT = str(Path(__file__).parents[1])
_GRACE_SECONDS = 2.0
_connections: weakref.WeakSet[asyncpg.Connection] = weakref.WeakSet()
_shared: weakref.WeakSet[asyncpg.Connection] = weakref.WeakSet()
_pending: list[str] = []
_expected: set[str] = set()


class Leaked(pytest.fail.Exception):
    """Something was left open."""


def install() -> None:
    """Follow every connection of asyncpg, and every event loop that closes with tasks pending."""
    connect, close = asyncpg.Connection.__init__, asyncio.Runner.close

    @wraps(connect)
    def followed(connection: asyncpg.Connection, *args: Any, **options: Any) -> None:
        connect(connection, *args, **options)
        _connections.add(connection)

    @wraps(close)
    def closed(runner: asyncio.Runner) -> None:
        with suppress(RuntimeError):  # it was closed before
            tasks = filter(_is_ours, asyncio.all_tasks(runner.get_loop()))
            _pending.extend(f"task pending when its loop closed: {task!r}" for task in tasks)
        close(runner)

    asyncpg.Connection.__init__ = followed
    asyncio.Runner.close = closed  # type: ignore[method-assign]


@contextmanager
def checked() -> Iterator[None]:
    """Raise `Leaked` if the block leaves anything open."""
    _pending.clear()
    _expected.clear()
    _expected.update(_handles())
    yield
    if leaks := _leaks():
        _shared.update(_connections)  # the next test is not blamed
        _pending.clear()
        raise Leaked("left open:\n" + "\n".join(leaks), pytrace=False)


@contextmanager
def shared() -> Iterator[None]:
    """Accept what the block opens: a fixture that outlives the test."""
    handles, connections = _handles(), set(_connections)
    yield
    _expected.update(_handles() - handles)
    _shared.update(set(_connections) - connections)


class SharedFixtures:
    """A pytest plugin; in a conftest the hook would miss fixtures of the session's scope."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        with shared():
            return (yield)


def _leaks() -> list[str]:
    if not (_pending or _open_connections() or _handles() - _expected):
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leaks = [*_pending, *map(_described, _open_connections())]
        gc.collect()
        until = time.monotonic() + _GRACE_SECONDS
        while (left := _handles() - _expected) and time.monotonic() < until:
            time.sleep(0.01)  # a child process that has just been killed
    leaks += [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)]
    return leaks + sorted(left)


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """Whether the task runs our code. Libraries do leave tasks behind, such as aiohttp's server its open requests."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_ROOT) and "site-packages" not in code.co_filename


def _open_connections() -> list[asyncpg.Connection]:
    return [connection for connection in _connections if connection not in _shared and not connection.is_closed()]


def _described(connection: asyncpg.Connection) -> str:
    origin = connection._source_traceback or "(PYTHONASYNCIODEBUG=1 shows where it was opened)"
    return f"database connection {connection!r} {origin}"


def _handles() -> set[str]:
    return {f"file descriptor {fd}: {target}" for fd, target in _descriptors()} | {
        f"child process {child}" for child in _children()
    }


def _descriptors() -> Iterator[tuple[str, str]]:
    for fd in Path("/dev/fd").iterdir():
        with suppress(OSError):  # the listing's own is closed by now
            yield fd.name, str(fd.readlink())


def _children() -> set[str]:
    """The ids of child processes, where the system has `/proc`."""
    children: set[str] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            children.update(listed.read_text().split())
    return children
