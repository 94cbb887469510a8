"""How a command runs and ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar

import typer

import guestledger
from guestledger.adapters.cli import log_lines, show
from guestledger.adapters.cli.stopping import stopping
from guestledger.adapters.cli.streams import plain

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result], *, interrupted: str = "interrupted: run it again") -> Result:
    """Run a command's coroutine. A `GuestledgerError` becomes one line and exit code 2.

    The first signal cancels it, unless it calls `stopping.then` itself; `interrupted` is its last line then.
    """
    collect_garbage_rarely()
    try:
        return asyncio.run(_cancellable(work))
    except guestledger.GuestledgerError as error:
        fail_with(error)
    except asyncio.CancelledError:
        say(interrupted)
        raise stopped() from None


def collect_garbage_rarely() -> None:
    """Set the garbage collector for many sessions in flight.

    It frees reference cycles only, and a session leaves none. By default it visits all in flight many times a second,
    for a quarter of the time of opening.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


async def _cancellable(work: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        # Before anything is cut off: asyncpg leaves the error of a connection that is cut off while it is made to nobody.
        loop.set_exception_handler(_report_unless_lost)
        task.cancel()

    stopping.then(cancel)
    return await work


def _report_unless_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


def opened() -> AbstractAsyncContextManager[guestledger.Ledger]:
    """Open the ledger of the environment's settings, without a scheduler."""
    return guestledger.connect(guestledger.Settings.from_env(), scheduler=False)


@asynccontextmanager
async def reading() -> AsyncIterator[guestledger.Ledger]:
    """Open the ledger and bring its projections up to date."""
    async with opened() as ledger:
        with show.progress(None, "catching up"):
            await ledger.projections.catch_up()
        yield ledger


def stopped() -> typer.Exit:
    """Return the exit of a stopped command: code 130 for SIGINT, 143 for SIGTERM."""
    return typer.Exit(128 + (stopping.signal or signal.SIGINT))


def say(text: str, level: int = logging.INFO) -> None:
    """Write one line for a person to stderr."""
    log_lines.write(plain(text), level)


def fail(text: str) -> NoReturn:
    """End the command with exit code 2: wrong use, or a service cannot be reached."""
    say(text, logging.ERROR)
    raise typer.Exit(2)


def check_installed(module: str, *, needed_for: str, extra: str) -> None:
    """End the command with exit code 2 if an optional module is missing."""
    if find_spec(module) is None:
        fail(f"{needed_for} needs {module}: install guestledger[{extra}]")


def fail_with(error: guestledger.GuestledgerError) -> NoReturn:
    """End the command with this error's line and exit code 2."""
    from guestledger.adapters.cli.error_lines import error_line

    fail(error_line(error))
