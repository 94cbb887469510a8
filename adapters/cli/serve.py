"""`guestledger serve`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

import guestledger
from guestledger.adapters.cli import options
from guestledger.adapters.cli.running import fail, run, say
from guestledger.adapters.cli.stopping import stopping

if TYPE_CHECKING:
    from guestledger.adapters.api.app import App

commands = typer.Typer()


@commands.command()
def serve(
    host: Annotated[str, typer.Option(callback=options.host, help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port to listen on; 0: any free one.")] = 8080,
    worker: Annotated[bool, typer.Option(help="Do due work too, as `guestledger worker` does.")] = True,
    rate: Annotated[int, typer.Option(min=1, help="How many requests a second one key may make.")] = 1_000,
    no_keys: Annotated[
        bool,
        typer.Option("--no-keys", help="Let every program on this machine do everything. Only on a loopback address."),
    ] = False,
) -> None:
    """Serve the HTTP API, and the console at `/`. Access keys are made by `guestledger keys access create`; TLS is a reverse proxy's work.

    SIGTERM and SIGINT stop it: requests and work in flight may finish within GUESTLEDGER_DRAIN_SECONDS. A second signal ends
    it at once. Every request is one line of the log.
    """
    from guestledger.adapters.api.access import is_loopback, without_keys
    from guestledger.adapters.api.admission import ApiLimits
    from guestledger.adapters.doors import application

    if no_keys and not is_loopback(host):
        raise typer.BadParameter(
            f"needs a loopback address such as 127.0.0.1, and {host!r} is none: make keys, or leave out --host",
            param_hint="--no-keys",
        )
    logging.getLogger("guestledger.access").setLevel(logging.INFO)
    limits = ApiLimits(requests_per_second=rate)
    run(_serve(application(authenticate=without_keys if no_keys else None, limits=limits), host, port, worker=worker))


async def _serve(app: App, host: str, port: int, *, worker: bool) -> None:
    with suppress(asyncio.CancelledError):
        await _serve_until_stopped(app, host, port, worker=worker)
    if stopping.signal is None:
        raise asyncio.CancelledError


async def _serve_until_stopped(app: App, host: str, port: int, *, worker: bool) -> None:
    from guestledger.adapters.api.serve import serving

    settings = guestledger.Settings.from_env()
    async with guestledger.connect(settings, scheduler=worker) as ledger:
        app.use(ledger)
        stopped = asyncio.Event()

        def stop() -> None:
            ledger.scheduler.stop()  # both drain at the same time
            stopped.set()

        stopping.then(stop)
        try:
            async with serving(app, host, port, drain_seconds=settings.drain_seconds) as url:
                say(f"serving on {url}")
                await stopped.wait()
        except (OSError, UnicodeError) as error:  # UnicodeError: no host can have this name
            reason = error.strerror if isinstance(error, OSError) else None
            fail(f"it cannot listen on {host}, port {port}: {reason or error}")
