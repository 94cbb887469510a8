"""`guestledger demo`."""

from __future__ import annotations

import io
import logging
import os
import shlex
import sys
import uuid
from collections import Counter
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

import guestledger
from guestledger.adapters.cli import show
from guestledger.adapters.cli.batch import Answer, OpeningBatch
from guestledger.adapters.cli.lines import numbered_lines
from guestledger.adapters.cli.reading import metrics_table
from guestledger.adapters.cli.running import run
from guestledger.adapters.cli.timeline import timeline

_QUOTA = 50
commands = typer.Typer()


_NOT_THE_DEMOS = tuple(
    f"GUESTLEDGER_{name}"
    for name in (
        *("DATABASE_URL", "VAULT_URL", "ERASURE_JOURNAL"),
        *("ENCRYPTION_KEY", "ENCRYPTION_KEY_FILE", "ENCRYPTION_KMS_KEY"),
    )
)
"""The demo has a database and a key of its own."""


@commands.command()
def demo(number: Annotated[int, typer.Option("--sessions", min=1, help="How many sessions to open.")] = 250) -> None:
    """Open sessions at a simulated provider that throttles, on an embedded database. Exit code 1 unless all are active."""
    raise typer.Exit(run(_demo(number)))


async def _demo(sessions: int) -> int:
    from guestledger.adapters.database import data_dir

    settings = guestledger.Settings(data_dir=data_dir(guestledger.Settings.from_env()) / "demo")
    channel = f"ch_demo_{uuid.uuid4().hex[:8]}"
    console = show.console()
    # The provider throttles on purpose.
    logging.getLogger("guestledger.waiting").setLevel(logging.ERROR)
    console.print(
        f"Opening {sessions} guest sessions on channel {channel}. "
        f"The simulated provider accepts {_QUOTA} a second and throttles the rest."
    )
    try:
        async with (
            guestledger.simulated(settings, guestledger.SimulatorConfig(quota=_QUOTA, retry_after_s=1)) as simulation,
            guestledger.connect(simulation) as ledger,
        ):
            answers = await _open(ledger, channel, sessions)
            await _show(console, ledger, channel, answers)
    finally:
        await guestledger.stop_database(settings)
    console.print("\nThe data stays. To look around, and to stop the database when done:")
    command = f"{_variables(settings)} {shlex.quote(sys.argv[0])}"
    console.print(f"  {command} sessions --channel {channel}\n  {command} db stop", soft_wrap=True)
    return 0 if all(answer.get("status") == "active" for answer in answers) else 1


def _variables(settings: guestledger.Settings) -> str:
    """The variables that lead other commands to the demo's database."""
    unset = "".join(f"{name}= " for name in _NOT_THE_DEMOS if os.environ.get(name))
    return f"{unset}GUESTLEDGER_DATA_DIR={shlex.quote(str(settings.data_dir))}"


async def _open(ledger: guestledger.Ledger, channel: str, sessions: int) -> list[Answer]:
    answers: list[Answer] = []
    with show.progress(sessions, "opening") as bar:
        batch = OpeningBatch(ledger, concurrency=64, wait=True, answered=partial(bar.advance, bar.task_ids[0]))

        async def keep(answer: Answer) -> None:
            answers.append(answer)

        await batch.run(numbered_lines(_requests(channel, sessions).read), keep)
    await batch.finish()
    return answers


def _requests(channel: str, sessions: int) -> io.BytesIO:
    """A file of guest requests. The addresses are reserved for documentation (RFC 5737)."""
    import msgspec

    lines = (
        {
            "channelId": channel,
            "ipAddress": f"203.0.113.{number % 254 + 1}",
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) guestledger-demo",
            "timestamp": "2024-05-20T14:21:59Z",
            "consent": {"dataProcessing": True, "gdprCompliant": True},
        }
        for number in range(sessions)
    )
    return io.BytesIO(b"\n".join(map(msgspec.json.encode, lines)))


async def _show(console: Console, ledger: guestledger.Ledger, channel: str, answers: list[Answer]) -> None:
    import msgspec

    outcomes = Counter(answer.get("status", "not accepted") for answer in answers)
    console.print("Outcome: " + ", ".join(f"{number} {status}" for status, number in outcomes.items()))
    console.print("\nMetrics", style="bold")
    console.print(metrics_table(await ledger.metrics(guestledger.MetricsFilter(channel_id=channel))))
    newest = guestledger.AuditFilter(channel_id=channel, newest_first=True, limit=1)
    [entry] = [entry async for entry in ledger.audit(newest)]
    console.print("\nOne audit entry", style="bold")
    console.print_json(msgspec.json.encode(guestledger.contract_form(entry)).decode())
    console.print("\nReplay of that session", style="bold")
    console.print(timeline(await ledger.replay.timeline(entry.id), console))
