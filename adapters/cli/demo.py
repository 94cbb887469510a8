"""`guestledger demo`: the main job from end to end, with a simulated CXone and an embedded database of its own."""

import io
import sys
import uuid
from collections import Counter
from functools import partial

import msgspec
from rich.console import Console

from guestledger.adapters.cli import show
from guestledger.adapters.cli.opening import Answer, Opening, numbered_lines
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import SimulatorConfig
from guestledger.adapters.wiring import connect, data_dir, simulated, stop_database
from guestledger.engine.ledger import Ledger
from guestledger.engine.projections.audit import AuditFilter, contract_form
from guestledger.engine.projections.metrics import MetricsFilter

_QUOTA = 50


async def demo(sessions: int) -> int:
    """Open this many sessions at a CXone that throttles; show metrics, an audit entry and a timeline.

    Returns the exit code: 0 when every session is active. The data stays, to be looked at.
    """
    settings = Settings(data_dir=data_dir(Settings.from_env()) / "demo")
    channel = f"ch_demo_{uuid.uuid4().hex[:8]}"
    console = show.console()
    console.print(
        f"Opening {sessions} guest sessions on channel {channel}; "
        f"the simulated CXone takes {_QUOTA} of them a second, and throttles more."
    )
    try:
        async with (
            simulated(settings, SimulatorConfig(quota=_QUOTA, retry_after_s=1)) as simulation,
            connect(simulation) as ledger,
        ):
            answers = await _open(ledger, channel, sessions)
            await _show(console, ledger, channel, answers)
    finally:
        await stop_database(settings)
    console.print("\nThe data stays. To look around (and `guestledger db stop` when done):")
    console.print(
        f"  GUESTLEDGER_DATA_DIR={settings.data_dir} {sys.argv[0]} sessions --channel {channel}", soft_wrap=True
    )
    return 0 if all(answer.get("status") == "active" for answer in answers) else 1


async def _open(ledger: Ledger, channel: str, sessions: int) -> list[Answer]:
    answers: list[Answer] = []
    with show.progress(sessions, "opening") as bar:
        opening = Opening(ledger, concurrency=64, wait=True, answered=partial(bar.advance, bar.task_ids[0]))
        await opening.run(numbered_lines(_requests(channel, sessions)), answers.append)
    await opening.finish()
    return answers


def _requests(channel: str, sessions: int) -> io.BytesIO:
    """Guest requests as a file holds them. The addresses are those set apart for documentation (RFC 5737)."""
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


async def _show(console: Console, ledger: Ledger, channel: str, answers: list[Answer]) -> None:
    outcomes = Counter(answer.get("status", "not accepted") for answer in answers)
    console.print("Observation: " + ", ".join(f"{number} {status}" for status, number in outcomes.items()))
    console.print("\nMetrics", style="bold")
    console.print(show.metrics_table(await ledger.metrics(MetricsFilter(channel_id=channel))))
    entry = [entry async for entry in ledger.audit(AuditFilter(channel_id=channel))][-1]
    console.print("\nOne audit entry", style="bold")
    console.print_json(msgspec.json.encode(contract_form(entry)).decode())
    console.print("\nReplay of that session", style="bold")
    console.print(show.timeline(await ledger.replay(entry.id), console.width))
