"""A bundle is read as it was written, or refused with the place and what to do."""

import json
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from guestledger.engine.domain.events import EVENT_TYPES, ConsentRecorded, SessionEvent
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.unreadable import BundleRefused
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.log import codec, upcasting
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.personal_fields import with_values
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from guestledger.engine.replay.bundle import VERSION, Bundle, read_bundle, write_bundle
from tests.lives import POLICY, recorded_life
from tests.unit.samples import CHANNEL, SESSION, START

LEDGER = UUID("018f96c2-7a60-7000-8000-0000000000f1")
OTHER = UUID("018f96c2-7a60-7000-8000-0000000000a2")
WRITTEN_AT = datetime(2026, 11, 3, tzinfo=UTC)
HISTORIES = [recorded_life(SESSION, 3), recorded_life(OTHER, 4, first_position=10)]
POLICIES = [
    RecordedPolicy(policy=replace(POLICY, limiter=LimiterPolicy(calls=1)), after_position=5),
    RecordedPolicy(policy=POLICY),
]


def written(histories: list[list[RecordedEvent]] = HISTORIES, at: datetime = WRITTEN_AT) -> bytes:
    return write_bundle(histories, policies=POLICIES, release="1.2.3", ledger=LEDGER, written_at=at)


def changed(line: int, change: Any) -> bytes:
    """The bundle with one line changed as JSON."""
    lines = written().splitlines()
    value = json.loads(lines[line - 1])
    change(value)
    # Compact, as the exact text of the events is.
    lines[line - 1] = json.dumps(value, separators=(",", ":")).encode()
    return b"\n".join(lines) + b"\n"


HEADER = written().splitlines(keepends=True)[0]


def test_a_bundle_is_read_as_it_was_written() -> None:
    bundle = read_bundle(written())
    assert (bundle.release, bundle.ledger, bundle.written_at) == ("1.2.3", LEDGER, WRITTEN_AT)
    assert list(bundle.policies) == POLICIES
    assert [list(session.history) for session in bundle.sessions] == HISTORIES
    assert [session.id for session in bundle.sessions] == [SESSION, OTHER]
    for session in bundle.sessions:
        assert len(session.due) == len(session.history)
        assert [*session.due[0].steps] == ["validate_channel", "enforce_deadline"]
        assert session.due[-1].steps == {}


def test_the_same_sessions_give_the_same_bytes_apart_from_the_time() -> None:
    assert written() == written()
    first, *rest = written(at=START).splitlines()
    assert rest == written().splitlines()[1:]
    assert first != written().splitlines()[0]


def test_a_bundle_can_be_read_without_our_code() -> None:
    header, *sessions = map(json.loads, written().splitlines())
    assert (header["format"], header["version"], header["sessions"]) == ("guestledger-bundle", VERSION, 2)
    event = sessions[0]["events"][0]
    assert event["event_type"] == "ConsentRecorded"
    assert event["data"]["channel_id"] == HISTORIES[0][0].event.channel_id  # type: ignore[attr-defined]
    assert event["due"]["steps"]["validate_channel"] == "2024-05-20T14:22:00Z"


def test_each_event_names_the_policy_that_its_due_steps_follow() -> None:
    one, other = read_bundle(written()).sessions
    assert one.due[0].policy == POLICIES[1].policy, "the other was not in force yet"
    assert other.due[0].policy == POLICIES[0].policy


def test_revealed_values_are_beside_their_events_and_never_in_the_data() -> None:
    first = HISTORIES[0][0]
    shown = replace(first, event=with_values(first.event, {"guest.ip_address": "203.0.113.9"}))
    data = written([[shown, *HISTORIES[0][1:]]])

    event = json.loads(data.splitlines()[1])["events"][0]
    assert event["revealed"] == {"guest.ip_address": "203.0.113.9"}
    assert json.dumps(event["data"], separators=(",", ":")) == first.data
    [session] = read_bundle(data).sessions
    assert session.history[0] == shown
    opened = session.history[0].event
    assert isinstance(opened, ConsentRecorded)
    assert isinstance(opened.guest.user_agent, Sealed)
    assert "203.0.113.9" not in repr(read_bundle(data))


def test_a_bundle_without_revealed_values_has_no_field_for_them() -> None:
    assert b"revealed" not in written()


@pytest.mark.parametrize(
    ("data", "line", "problem"),
    [
        (b"", 1, "this is no bundle"),
        (b"\xff\xfe", 1, "this is no bundle"),
        (b'{"format":"other"}\n', 1, "this is no bundle"),
        (changed(1, lambda header: header.update(version=VERSION + 1)), 1, "upgrade guestledger here"),
        (changed(1, lambda header: header.pop("ledger")), 1, "the header cannot be read"),
        (changed(1, lambda header: header.update(policies=[])), 1, "names no policy"),
        (changed(1, lambda header: header["policies"][0]["policy"].update(retention_days="x")), 1, "retention_days"),
        (b'{"a":' + b"[" * 20_000 + b"\n", 1, "this is no bundle"),
        (HEADER + b'{"events":[],"a":' + b"[" * 20_000 + b"\n\n", 2, "cannot be read"),
        (changed(2, lambda session: session.update(id=f"{'f' * 8}-ffff-7fff-8fff-{'f' * 12}")), 2, "the year 9999"),
        (changed(2, lambda session: session["events"][0].update(recorded_at="2024-05-20T14:22:00")), 2, "recorded_at"),
        (written()[: written().rindex(b"\n", 0, -1) + 1], 2, "has 2 sessions, but 1 are here"),
        (written()[:-40], 3, "cannot be read"),
        (changed(3, lambda session: session["events"].pop(2)), 3, "not versions 1, 2, 3"),
        (changed(3, lambda session: session["events"].clear()), 3, "not versions 1, 2, 3"),
        (changed(2, lambda session: session["events"][1].update(actor="x")), 2, "event 2 does not fit its leaf hash"),
        (changed(2, lambda session: session.update(id=str(OTHER))), 2, "event 1 does not fit its leaf hash"),
        (changed(2, lambda session: session["events"][0]["due"].update(policy=2)), 2, "names policy 2"),
        (changed(2, lambda session: session["events"][1].update(revealed={"x": "y"})), 2, "has no commitments"),
        (changed(2, lambda session: session["events"][0].update(revealed={"x": "y"})), 2, "has no commitments"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(data: bytes, line: int, problem: str) -> None:
    with pytest.raises(BundleRefused, match=f"^case.jsonl, line {line}: .*{problem}") as caught:
        read_bundle(data, "case.jsonl")
    assert caught.value.line == line


def test_an_event_of_a_newer_release_is_refused_with_its_place() -> None:
    lines = written().splitlines()
    session = msgspec.json.decode(lines[1])
    last = session["events"][-1]
    last["event_type"] = "SessionTeleported"
    hashed = {name: last[name] for name in ("version", "event_type", "schema_version", "correlation_id", "actor")}
    leaf = leaf_hash(
        **hashed,
        stream_id=SESSION,
        recorded_at=datetime.fromisoformat(last["recorded_at"]),
        causation_id=UUID(last["causation_id"]),
        data=HISTORIES[0][-1].data,
    )
    last["leaf_hash"] = leaf.hex()
    lines[1] = msgspec.json.encode(session)
    with pytest.raises(BundleRefused, match=f"line 2: position .*version {last['version']}: event 'SessionTeleported'"):
        read_bundle(b"\n".join(lines))


class CoffeeServed(SessionEvent, frozen=True, kw_only=True):
    """Version 1 had `mug`."""

    schema_version: ClassVar[int] = 2

    cup: str


def test_old_schema_versions_are_upcast_and_keep_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVENT_TYPES, "CoffeeServed", CoffeeServed)  # type: ignore[arg-type]
    monkeypatch.setitem(codec._decoders, "CoffeeServed", msgspec.json.Decoder(CoffeeServed))
    monkeypatch.setitem(codec._WIRE_NAMES, CoffeeServed, "CoffeeServed")
    old = {("CoffeeServed", 1): lambda data: {**data, "cup": data["mug"]}}
    monkeypatch.setattr(upcasting, "UPCASTERS", old)
    text = f'{{"at":"2024-05-20T14:22:00Z","channel_id":"{CHANNEL}","mug":"blue"}}'
    stored: dict[str, Any] = {
        "stream_id": SESSION,
        "version": 1,
        "recorded_at": START,
        "correlation_id": "",
        "causation_id": SESSION,
        "actor": "tests",
        "data": text,
        "schema_version": 1,
    }
    leaf = leaf_hash(**stored, event_type="CoffeeServed")
    event = CoffeeServed(at=START, channel_id=CHANNEL, cup="blue")
    recorded = RecordedEvent(**stored, position=0, event=event, leaf_hash=leaf)

    bundle: Bundle = read_bundle(written([[recorded]]))

    assert bundle.sessions[0].history == (recorded,)


def test_a_session_on_which_this_release_fails_can_be_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestledger.engine.replay.bundle.evolve", _failing)
    [session] = read_bundle(written([HISTORIES[0]])).sessions
    assert (len(session.history), session.due) == (len(HISTORIES[0]), ())


def _failing(_state: object, _event: object) -> Policy:
    raise AssertionError
