"""Personal and secret fields never show in anything printed."""

import importlib
import pkgutil
import pprint
import traceback
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from aiohttp import ClientSession
from rich.pretty import pretty_repr

from guestledger import adapters, engine
from guestledger.adapters.cxone import payload
from guestledger.adapters.cxone.payload import creation_body
from guestledger.adapters.http.transport import Answer
from guestledger.adapters.postgres.log.batch import Proposal
from guestledger.adapters.postgres.personal.sealed_append import IndexRow, Sealing
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.webhook.sender import _notice
from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Guest
from guestledger.engine.domain.outcomes import Adoption, Created
from guestledger.engine.domain.personal import MASK, Guarded, Personal, Secret, SecretBytes, masked, personal_fields
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import Append, StepChanges
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.provider import PreparedCreation
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

PASSWORD = "pass-in-a-url"
SECRETS = (IP, USER_AGENT, FINGERPRINT, TOKEN, PASSWORD)
RECORDED = RecordedEvent(
    position=0,
    stream_id=SESSION,
    version=1,
    event=was_recorded(),
    recorded_at=START,
    correlation_id="c",
    causation_id=SESSION,
    actor="a",
    data="{}",
    leaf_hash=b"",
)
PROPOSED = Append(
    stream_id=SESSION,
    expected_version=0,
    events=(was_recorded(), was_created()),
    steps=StepChanges(),
    actor="a",
    causation_id=SESSION,
    correlation_id="c",
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
    "an adoption": Adoption(session_id="s", expires_at=START, guest_token=TOKEN),
    "a creation request": PreparedCreation(body=creation_body(given(*ACTIVE).state), request_hmac="ab" * 32),
    "its fields": payload._Attributes(FINGERPRINT, 0, 1),
    "an answer": Answer(status=201, body=TOKEN.encode()),
    "a notice": _notice(given(*ACTIVE).state),
    "settings": Settings(
        database_url=f"postgresql://user:{PASSWORD}@host/db",
        migration_url=f"postgresql://owner:{PASSWORD}@host/db",
        cxone_url=f"https://user:{PASSWORD}@host",
        cxone_client_secret=PASSWORD,
        webhook_url=f"https://host/{PASSWORD}",
        webhook_secret=PASSWORD,
    ),
    "a proposal": Proposal(PROPOSED, ("{}", "{}"), Sealing(PROPOSED.events)),
    "a string": [Secret(TOKEN * 100)],
    "bytes": {"body": SecretBytes(TOKEN.encode() * 100)},
}


class Sample(Guarded, frozen=True, kw_only=True):
    """A value with each kind of personal field."""

    plain: str
    secret: Personal
    perhaps: Personal | None = None
    bounded: msgspec.UnsetType | Personal = "x"


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_no_printed_form_shows_a_personal_value(holder: object) -> None:
    forms = [
        repr(holder),
        str(holder),
        f"{holder}",
        f"{holder!r}",
        pprint.pformat(holder),
        pretty_repr(holder, max_string=80),
    ]
    shown = [secret for secret in SECRETS for form in forms if secret in form]
    assert shown == []


def test_values_that_are_not_personal_are_shown() -> None:
    for form in (repr(was_created()), pretty_repr(was_created())):
        assert "sess_9d4e8f1a" in form
        assert "SessionCreated" in form
        assert MASK in form


def test_a_mask_shows_that_a_value_is_present() -> None:
    shown = masked(Sample(plain="a", secret="b", perhaps="c"))
    assert shown == {"plain": "a", "secret": MASK, "perhaps": MASK, "bounded": MASK}
    assert repr(Sample(plain="a", secret="b")) == f"Sample(plain='a', secret='{MASK}', perhaps=None, bounded='{MASK}')"


def test_nested_values_are_masked() -> None:
    shown = repr(given(*ACTIVE).state)
    assert f"guest_token='{MASK}'" in shown
    assert f"ip_address='{MASK}'" in shown


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (GuestRequest, {"ip_address", "user_agent", "subject_id", "idempotency_key"}),
        (Guest, {"fingerprint", "ip_address", "user_agent", "subject_id", "idempotency_key", "hmac_key"}),
        (e.SessionCreated, {"guest_token"}),
        (e.GuestTokenFound, {"guest_token"}),
        (Created, {"guest_token"}),
        (Session, {"guest_token"}),
        (e.ChannelValidated, set()),
    ],
)
def test_the_personal_fields_match_the_design(kind: type[msgspec.Struct], fields: set[str]) -> None:
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


# Fields with these names, and all bytes, are personal or secret. `PLAIN` has the exceptions.
REVEALING = {
    *("fingerprint", "visitor_fingerprint", "ip_address", "user_agent", "guest_token", "token", "access_token"),
    *(
        "subject_id",
        "idempotency_key",
        "encryption_key",
        "body",
        "answer",
        "hmac_key",
        "sha256",
        "database_url",
        "migration_url",
        "cxone_url",
    ),
    *("cxone_client_secret", "webhook_url", "webhook_secret"),
}
PLAIN = {
    "guestledger.adapters.api.exchange.Response.body",  # its `repr` has the status alone
    "guestledger.adapters.http.token_source.TokenFields.access_token",  # a field name of the provider's JSON
    "guestledger.adapters.cxone.profile.SessionFields.token",
    "guestledger.engine.log.recorded.RecordedEvent.leaf_hash",
    "guestledger.engine.log.recorded.Batch.mark",  # a leaf hash too
    "guestledger.engine.domain.events.CreationAttempted.idempotency_key",  # our own id of the session
    "guestledger.engine.domain.consent_terms.PrivacyNotice.sha256",  # of a text that everybody may read
    "guestledger.adapters.telemetry.endpoints.Answer.body",  # metrics and health
    # What the database stores: leaf hashes, keyed hashes, and what is encrypted.
    "guestledger.adapters.postgres.log.rows.EventRow.leaf_hash",
    "guestledger.adapters.postgres.log.rows.RequestKeyRow.idempotency_key",
    *(
        f"guestledger.adapters.postgres.personal.sealed_append.IndexRow.{name}"
        for name in IndexRow.__struct_fields__[1:]
    ),
    "guestledger.adapters.postgres.personal.sealed_append.SealedRow.sealed",
    "guestledger.adapters.postgres.personal.vault.KeyRow.subject",
    "guestledger.adapters.postgres.personal.vault.KeyRow.wrapped",
}


def _can_hold_text(kind: Any) -> bool:
    return kind in (str, bytes) or any(map(_can_hold_text, get_args(kind)))


def _modules() -> Iterator[str]:
    for package in (engine, adapters):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(module.name).__name__


def test_every_personal_field_is_marked() -> None:
    modules = set(_modules())
    kinds = [kind for kind in _structs(msgspec.Struct) if kind.__module__ in modules]
    assert {Guest, Answer, PreparedCreation, payload._Attributes, Settings} <= set(kinds)
    bare = {
        f"{kind.__module__}.{kind.__qualname__}.{name}"
        for kind in kinds
        for name, type_ in get_type_hints(kind).items()
        if (name in REVEALING and _can_hold_text(type_)) or type_ in (bytes, bytes | None)
        if not issubclass(kind, Guarded) or name not in personal_fields(kind)
    }
    assert bare == PLAIN


def test_only_known_tuples_have_personal_fields() -> None:
    modules = set(_modules())
    kinds = {kind for kind in tuple.__subclasses__() if kind.__module__ in modules}
    revealing = {kind.__qualname__ for kind in kinds if REVEALING.intersection(getattr(kind, "_fields", ()))}
    # Of `GuestHashes` they are keyed hashes; the others are the simulator's.
    assert revealing == {"GuestHashes", "Reply", "Made", "SentRequest", "SentWebhook"}


async def test_the_simulators_records_show_no_personal_value() -> None:
    state = given(*ACTIVE).state
    async with Simulator() as simulator, ClientSession() as http:
        form = {
            "grant_type": "client_credentials",
            "client_id": simulator.client_id,
            "client_secret": simulator.client_secret,
        }
        async with http.post(f"{simulator.url}/oauth/token", data=form) as answer:
            token = (await answer.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": "k"}
        body = creation_body(state)
        async with http.post(f"{simulator.url}/api/v1/chat/sessions", data=body, headers=headers) as answer:
            guest_token = (await answer.json())["token"]
        async with http.post(simulator.webhook_url, data=body):
            pass
        shown = repr((simulator.requests, simulator.webhooks, simulator.sessions_by_key))
    assert MASK in shown
    assert [secret for secret in (token, guest_token, FINGERPRINT) if secret in shown] == []
