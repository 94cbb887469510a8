"""The `guestledger` command line. Exit codes: see `docs/cli.md`.

Commands import what they need when they run: `import guestledger` loads its names lazily.
"""

import sys
from typing import Annotated

import typer

import guestledger
from guestledger.adapters.cli import (
    audit,
    bundle,
    consent,
    db,
    demo,
    erase,
    export,
    find,
    keys,
    keys_access,
    limits,
    log,
    log_lines,
    opening,
    partitions,
    projections,
    reading,
    replay,
    resolve,
    retention,
    serve,
    streams,
    verify,
    webhooks,
    what_if,
    why,
    worker,
)
from guestledger.adapters.cli.options import choice
from guestledger.adapters.cli.running import say
from guestledger.adapters.cli.stopping import stopping
from guestledger.adapters.log_format import LogFormat

COMMANDS = (
    opening,
    worker,
    serve,
    reading,
    audit,
    find,
    replay,
    what_if,
    bundle,
    why,
    resolve,
    limits,
    log,
    verify,
    consent,
    erase,
    retention,
    export,
    demo,
)
"""Modules whose `commands` stand at the top level, in the order of `--help`."""

GROUPS = {"webhooks": webhooks, "projections": projections, "partitions": partitions, "keys": keys, "db": db}
"""Modules whose `commands` form a group of their own."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Open guest web-messaging sessions, and prove what happened in each of them.",
    pretty_exceptions_enable=False,
)
for module in COMMANDS:
    app.add_typer(module.commands)
keys.commands.add_typer(keys_access.commands, name="access")
for name, module in GROUPS.items():
    app.add_typer(module.commands, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"guestledger {guestledger.__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    log_format: Annotated[
        str,
        typer.Option(
            "--log-format", envvar="GUESTLEDGER_LOG_FORMAT", metavar="|".join(LogFormat), help="How log lines look."
        ),
    ] = LogFormat.TEXT,
) -> None:
    """Accept the options that stand before a command."""
    log_lines.install(choice(LogFormat, log_format, "--log-format"))


def main() -> None:
    """Run the command line and exit."""
    stopping.install()
    streams.install()
    log_lines.install(LogFormat.TEXT)
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except streams.OutputLost as lost:
        code = 1 if lost.reader_left else 2
        if not lost.reader_left:
            say(f"the output cannot be written: {lost}")
    except typer.TyperException as error:
        if text := " ".join(error.format_message().split()):  # empty after --help
            say(f"{text} (see --help)")
        code = error.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
