"""`guestledger worker`."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Annotated

import typer
from rich.progress import Progress

import guestledger
from guestledger.adapters.cli import options, show
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.running import check_installed, fail, run, say
from guestledger.adapters.cli.stopping import stopping

logger = logging.getLogger("guestledger")
commands = typer.Typer()

_LOOPBACK = "127.0.0.1"
_Address = tuple[str, int]


@commands.command()
def worker(
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle",
            help="End when only token expiries, parked sessions and webhook retries over a minute ahead remain.",
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Serve /metrics, /healthz and /readyz on this port; 0: on a free one."),
    ] = None,
    metrics_host: Annotated[
        str,
        typer.Option(
            callback=options.host,
            help="The address to serve them on. There is no key: let only your monitoring reach it.",
        ),
    ] = _LOOPBACK,
) -> None:
    """Do all due work: retry pending sessions, send webhooks, expire tokens, update projections.

    Starts even while the provider cannot be reached. SIGTERM and SIGINT stop it: work in flight may finish within
    GUESTLEDGER_DRAIN_SECONDS; other workers take over the rest. A second signal ends it at once.
    """
    if metrics_port is not None:
        check_installed("prometheus_client", needed_for="--metrics-port", extra="server")
    elif metrics_host != _LOOPBACK:
        raise typer.BadParameter("goes only with --metrics-port", param_hint="--metrics-host")
    run(_work(until_idle=until_idle, metrics=None if metrics_port is None else (metrics_host, metrics_port)))


async def _work(*, until_idle: bool, metrics: _Address | None) -> None:
    settings = guestledger.Settings.from_env()
    settings.require_cxone()
    try:
        await _work_until_stopped(settings, until_idle=until_idle, metrics=metrics)
    except asyncio.CancelledError:
        if stopping.signal is None:
            raise
        if until_idle:
            say("stopped before any work was done")


async def _work_until_stopped(settings: guestledger.Settings, *, until_idle: bool, metrics: _Address | None) -> None:
    async with guestledger.connect(settings, scheduler=False) as ledger, AsyncExitStack() as stack:
        if metrics is not None:
            await _serve_metrics(ledger, metrics, stack)
        try:
            await ledger.checks.provider()
        except guestledger.ServiceUnreachable as error:  # expiries and webhooks need no provider
            logger.warning("the worker starts although %s", error_line(error))
        # Fails at once for a user who may not read due work, or without a key; the scheduler would only retry.
        await ledger.checks.databases()
        total = await ledger.scheduler.unfinished()
        stopping.then(ledger.scheduler.stop)
        if not until_idle:
            await ledger.scheduler.run_forever()
            return
        done = await _until_idle(ledger, total)
        how, none = ("idle", "nothing was due") if stopping.signal is None else ("stopped", "nothing was done")
        say(f"{how}; " + (", ".join(f"{number} {name}" for name, number in sorted(done.items())) or none))


async def _serve_metrics(ledger: guestledger.Ledger, address: _Address, stack: AsyncExitStack) -> None:
    from guestledger.adapters.telemetry.serving import serving

    host, port = address
    try:
        bound = await stack.enter_async_context(serving(ledger, host, port))
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        fail(f"the metrics cannot be served on {host}, port {port}: {reason or error}. Choose another --metrics-port")
    say(f"metrics on http://{f'[{host}]' if ':' in host else host}:{bound}/metrics")


async def _until_idle(ledger: guestledger.Ledger, total: int) -> Counter[str]:
    with show.progress(total, "working") as bar:
        showing = [] if bar.disable else [asyncio.create_task(_show_progress(ledger, bar, total))]
        try:
            return await ledger.scheduler.run_until_idle()
        finally:
            for task in showing:
                task.cancel()
            await asyncio.gather(*showing, return_exceptions=True)


async def _show_progress(ledger: guestledger.Ledger, bar: Progress, total: int) -> None:
    while True:
        await asyncio.sleep(0.5)
        with suppress(guestledger.ServiceError):  # the scheduler reports it
            left = await ledger.scheduler.unfinished()
            bar.update(bar.task_ids[0], completed=max(0, total - left), total=max(total, left))
