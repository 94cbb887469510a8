"""How a command runs and ends: its result, or one line on stderr that says what to do."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

import typer

from engine.domain.errors import GuestledgerError

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Do a command's work. An error that it can name is told of in one line, and ends the command with exit code 2."""
    try:
        return asyncio.run(work)
    except GuestledgerError as error:
        fail(str(error))
    except KeyboardInterrupt:
        say("interrupted: accepted requests stay pending, `guestledger worker` goes on with them")
        raise typer.Exit(130) from None


def say(text: str) -> None:
    """One line for a person, on stderr."""
    sys.stderr.write(f"guestledger: {text}\n")


def fail(text: str) -> NoReturn:
    """End the command as used wrongly, or as unable to reach a service: exit code 2."""
    say(text)
    raise typer.Exit(2)
