"""What an embedder needs by name is the engine's own."""

import inspect
import re
from typing import Any, get_args, get_type_hints

import guestledger
from guestledger.engine.domain import errors
from guestledger.engine.ledger import Ledger

PUBLIC = [method for name, method in inspect.getmembers(Ledger, inspect.isfunction) if not name.startswith("_")]


def _ours(kind: Any) -> set[type]:
    of_its_parts: set[type] = set().union(*map(_ours, get_args(kind)))
    if isinstance(kind, type) and kind.__module__.startswith("guestledger."):
        return of_its_parts | {kind}
    return of_its_parts


def test_whatever_the_ledger_takes_and_returns_is_exported() -> None:
    named: set[type] = set().union(*(_ours(kind) for method in PUBLIC for kind in get_type_hints(method).values()))
    assert guestledger.Session in named
    assert {kind for kind in named if getattr(guestledger, kind.__name__, None) is not kind} == set()


def test_whatever_the_ledger_says_that_it_raises_is_exported() -> None:
    told = {word for method in PUBLIC for word in re.findall(r"`(\w+)`", inspect.getdoc(method) or "")}
    raised = {word for word in told if hasattr(errors, word)}
    assert {"SessionNotFound", "PartitionDetached"} <= raised
    assert raised <= set(guestledger.__all__)


def test_whatever_a_policy_is_made_of_is_exported() -> None:
    assert {kind.__name__ for kind in get_type_hints(guestledger.Policy).values()} - {"bool"} <= set(
        guestledger.__all__
    )
