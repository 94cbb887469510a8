"""How a command runs and ends: its result, or one line on stderr that says what to do."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import typer

from guestledger.adapters.cli.stopping import stopping
from guestledger.engine.domain.errors import GuestledgerError

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Do a command's work. An error that it can name is told of in one line, and ends the command with exit code 2.

    Told to stop, it is cancelled, unless it has said otherwise by `stopping.then`.
    """
    try:
        return asyncio.run(_cancellable(work))
    except GuestledgerError as error:
        fail(str(error))
    except asyncio.CancelledError:
        say("interrupted: accepted requests stay pending, `guestledger worker` goes on with them")
        raise stopped() from None


async def _cancellable(work: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.current_task()
    assert task is not None
    stopping.then(task.cancel)
    return await work


def stopped() -> typer.Exit:
    """The end of a command that was told to stop: with exit code 130 by SIGINT, 143 by SIGTERM, as shells count."""
    return typer.Exit(128 + (stopping.signal or signal.SIGINT))


def say(text: str) -> None:
    """One line for a person, on stderr."""
    sys.stderr.write(f"guestledger: {text}\n")


def fail(text: str) -> NoReturn:
    """End the command as used wrongly, or as unable to reach a service: exit code 2."""
    say(text)
    raise typer.Exit(2)
