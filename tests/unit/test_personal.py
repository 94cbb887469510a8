"""Personal and secret fields never show in anything printed."""

import importlib
import pkgutil
import pprint
import traceback
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from rich.pretty import pretty_repr

import engine
from engine.domain import events as e
from engine.domain.outcomes import Created
from engine.domain.personal import MASK, Guarded, Personal, masked, personal_fields
from engine.domain.recorded import RecordedEvent
from engine.domain.request import GuestRequest
from engine.domain.session import Session
from engine.domain.wire import encode
from tests.unit.given import given
from tests.unit.samples import (
    ACTIVE,
    FINGERPRINT,
    IP,
    ONE_OF_EACH,
    SESSION,
    START,
    TOKEN,
    USER_AGENT,
    answer,
    created,
    open_session,
    request,
    was_created,
    was_recorded,
)

SECRETS = (IP, USER_AGENT, FINGERPRINT, TOKEN)
RECORDED = RecordedEvent(
    position=0,
    stream_id=SESSION,
    version=1,
    event=was_recorded(),
    recorded_at=START,
    correlation_id="c",
    causation_id=SESSION,
    actor="a",
    data=encode(was_recorded()),
    leaf_hash=b"",
)
HOLDERS: dict[str, Any] = {
    "recorded": RECORDED,
    **{type(event).__name__: event for event in ONE_OF_EACH},
    "request": request(),
    "session": given(*ACTIVE).state,
    "created": created(),
    "a command with a request": open_session(),
    "a command with an outcome": answer(created()),
    "a list of events": [was_recorded(), was_created()],
    "a dict of sessions": {"one": given(*ACTIVE).state},
}


class Sample(Guarded, frozen=True, kw_only=True):
    """A value with a personal field of each make."""

    plain: str
    secret: Personal
    perhaps: Personal | None = None
    bounded: msgspec.UnsetType | Personal = "x"


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_no_printed_form_shows_a_personal_value(holder: object) -> None:
    forms = [repr(holder), str(holder), f"{holder}", f"{holder!r}", pprint.pformat(holder), pretty_repr(holder)]
    shown = [secret for secret in SECRETS for form in forms if secret in form]
    assert shown == []


def test_what_is_not_personal_is_still_shown() -> None:
    for form in (repr(was_created()), pretty_repr(was_created())):
        assert "sess_9d4e8f1a" in form
        assert "SessionCreated" in form
        assert MASK in form


def test_a_masked_value_shows_that_there_is_one() -> None:
    shown = masked(Sample(plain="a", secret="b", perhaps="c"))
    assert shown == {"plain": "a", "secret": MASK, "perhaps": MASK, "bounded": MASK}
    assert repr(Sample(plain="a", secret="b")) == f"Sample(plain='a', secret='{MASK}', perhaps=None, bounded='{MASK}')"


def test_values_inside_values_are_masked() -> None:
    shown = repr(given(*ACTIVE).state)
    assert f"guest_token='{MASK}'" in shown
    assert f"ip_address='{MASK}'" in shown


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (GuestRequest, {"ip_address", "user_agent"}),
        (e.Guest, {"fingerprint", "ip_address", "user_agent", "request_sha256"}),
        (e.CreationAttempted, {"request_sha256"}),
        (e.SessionCreated, {"guest_token"}),
        (Created, {"guest_token"}),
        (Session, {"guest_token"}),
        (RecordedEvent, {"data"}),
        (e.ChannelValidated, set()),
    ],
)
def test_the_personal_fields_are_those_of_the_design(kind: type[msgspec.Struct], fields: set[str]) -> None:
    assert personal_fields(kind) == fields


def test_a_traceback_shows_no_personal_value() -> None:
    error = AssertionError(was_recorded(), given(*ACTIVE).state)
    text = "".join(traceback.format_exception(error))
    assert MASK in text
    assert [secret for secret in SECRETS if secret in text] == []


def _structs(root: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _structs(kind)


def test_no_value_of_the_engine_has_a_personal_field_that_is_not_marked() -> None:
    names = {"fingerprint", "visitor_fingerprint", "ip_address", "user_agent", "guest_token", "token", "data"}
    for module in pkgutil.walk_packages(engine.__path__, "engine."):
        importlib.import_module(module.name)
    engines = [kind for kind in _structs(msgspec.Struct) if kind.__module__.startswith("engine.")]
    kinds = [kind for kind in engines if not kind.__name__.startswith("_")]
    assert e.Guest in kinds
    bare = {
        f"{kind.__module__}.{kind.__qualname__}.{name}"
        for kind in kinds
        for name in names.intersection(kind.__struct_fields__)
        if not issubclass(kind, Guarded) or name not in personal_fields(kind)
    }
    assert bare == set()
