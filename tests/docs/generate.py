"""Writes the pages that come from the code, and builds the site: `make docs`."""

import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer

from guestledger import ConsentTerms, DeliveryPolicy, LimiterPolicy, Policy, Profile, RetryPolicy, Settings
from guestledger.adapters.api.openapi import openapi
from guestledger.adapters.api.routes import ROUTES
from guestledger.adapters.cli.main import app
from guestledger.adapters.settings import variable
from tests.docs.blocks import ROOT
from tests.docs.events import events
from tests.docs.reference import GENERATED, meanings, sentences, table

_CLI = f"""{GENERATED}

# Which commands are there?

`guestledger COMMAND --help` prints the same. Settings come from [environment variables](settings.md).

A session id in an argument is the engine's `id` or the provider's `sessionId`. `--json` prints one JSON object a line.
`guestledger --log-format json COMMAND`, or
`GUESTLEDGER_LOG_FORMAT=json`, does so for the log lines on stderr ([fields](observability.md#log-lines)). Without `--json`, tables show at most 1,000 rows. Times are UTC, by the database's clock. Personal data is masked, except with
`--reveal`, which is recorded, and `open --tokens`.

| exit code | meaning |
|---|---|
| 0 | everything went well |
| 1 | a session did not become active, a check found a difference, a decision was refused, or nothing was found to decide on |
| 2 | the command was used wrongly, a service cannot be reached, or the input or output fails; one line on stderr says what to do |
| 130, 143 | stopped by SIGINT or SIGTERM; a stopped `worker`, `serve` or `events --follow` exits with 0 |

The first signal stops a command in order, the second ends it at once. Accepted requests stay pending, and a worker continues
them. `open` stops in the same way when its output cannot be written; other commands end silently with 1 when their reader has left,
as behind `| head`. Where stdout is not UTF-8, JSON has escapes for all but ASCII.
"""

_SETTINGS = f"""{GENERATED}

# Which settings are there?

Each variable is a field of `Settings`: `Settings.from_env()` reads the environment, `Settings(database_url=…)` is the same in
code. An empty variable counts as unset; line breaks at the end are dropped. An invalid one raises `InvalidSettings`, which names
the variable and never its value; so does one that starts with `GUESTLEDGER_` and is not listed here, except those that Kubernetes
sets for services.
All processes on one ledger should have the same settings.

## Environment variables
"""

_IN_CODE = """
## Only in code

`connect(settings, policy=Policy(creation=RetryPolicy(…), webhook=DeliveryPolicy(…), limiter=LimiterPolicy(…)),
profile=Profile(…))`. Durations are whole milliseconds (`_ms`).
"""


def cli() -> str:
    """The page of commands."""
    parts = [_CLI]
    for name, command in _commands(typer.main.get_group(app), "guestledger"):
        parts.append(f"## {name}\n\n{sentences(command.help)}\n\n```text\n{_usage(name, command)}\n```\n")
        rows = [_parameter(parameter) for parameter in command.params]
        if rows:
            parts.append(table(("", "meaning", "default"), rows))
    return "\n".join(parts)


def settings() -> str:
    """The page of settings."""
    rows = [(f"`{variable(name)}`", *rest) for name, *rest in _fields(Settings)]
    parts = [_SETTINGS, table(("variable", "values", "default", "meaning"), rows), _IN_CODE]
    for kind in (Policy, RetryPolicy, DeliveryPolicy, LimiterPolicy, Profile):
        parts.append(f"### {kind.__name__}\n\n{sentences(kind.__doc__ or '')}\n")
        rows = [(f"`{name}`", *rest) for name, *rest in _fields(kind)]
        parts.append(table(("field", "values", "default", "meaning"), rows))
    return "\n".join(parts)


def http_api() -> str:
    """The OpenAPI document of the HTTP API."""
    return msgspec.json.format(msgspec.json.encode(openapi(ROUTES)), indent=1).decode() + "\n"


PAGES = {
    ROOT / "docs" / "cli.md": cli,
    ROOT / "docs" / "settings.md": settings,
    ROOT / "docs" / "events.md": events,
    ROOT / "docs" / "openapi.json": http_api,
}

SITE = ROOT / "build" / "site"


def build_site() -> subprocess.CompletedProcess[str]:
    """Build docs/ into build/site. A warning, such as a link that leads nowhere, makes its exit code 1."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{prefix} {name}", command
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _usage(name: str, command: Any) -> str:
    arguments = [_argument(each) for each in command.params if each.param_type_name == "argument"]
    options = [f"{each.opts[0]} TEXT" for each in command.params if each.param_type_name == "option" and each.required]
    return " ".join([name, "[OPTIONS]", *arguments, *options])


def _argument(parameter: Any) -> str:
    shown = parameter.metavar or parameter.name.upper()
    return shown if parameter.required or shown.startswith("[") else f"[{shown}]"


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`", parameter.help or "", "" if not parameter.required else "required"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return names, parameter.help or "", _option_default(parameter)


def _option_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.default in (None, False):
        return ""
    return f"`{parameter.opts[0] if parameter.is_flag else parameter.default}`"


def _fields(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str, str, str]]:
    in_environment = kind is Settings
    texts, hints = meanings(kind), get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        default = field.default
        if default is msgspec.NODEFAULT:
            default = field.default_factory() if callable(field.default_factory) else None
        values = _values(hints[field.name])
        yield (
            field.name,
            values if in_environment else values.replace("`1` or `0`", "`True` or `False`"),
            _default(default, in_environment=in_environment),
            texts.get(field.name, ""),
        )


def _values(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _values(get_args(kind)[0])
    if isinstance(kind, UnionType) or NoneType in get_args(kind):
        return ", ".join(dict.fromkeys(_values(option) for option in get_args(kind) if option is not NoneType))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return ", ".join(f"`{value}`" for value in kind)
    if get_origin(kind) is tuple:
        return f"several {_values(get_args(kind)[0])}s"
    words = {str: "text", bool: "`1` or `0`", int: "whole number", float: "number", Path: "path"}
    return words.get(kind) or f"`{kind.__name__}`"


def _default(value: Any, *, in_environment: bool) -> str:
    match value:
        case None | "":
            return ""
        case bool():
            return f"`{int(value)}`" if in_environment else f"`{value}`"
        case float():
            return f"`{value:g}`"
        case StrEnum():
            return f"`{value}`"
        case tuple():
            return ", ".join(f"`{each}`" for each in value)
        case ConsentTerms():
            return "nothing is stated"
        case RetryPolicy() | DeliveryPolicy() | LimiterPolicy():
            return f"[below](#{type(value).__name__.lower()})"
        case msgspec.Struct():
            return "as in the contract"
        case _:
            return f"`{value}`"


if __name__ == "__main__":
    for page, text in PAGES.items():
        page.write_text(text())
        sys.stdout.write(f"{page.relative_to(ROOT)}\n")
    built = build_site()
    sys.stdout.write("build/site/index.html\n" if built.returncode == 0 else built.stdout)
    sys.exit(built.returncode)
