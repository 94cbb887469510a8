"""Bundles: sessions in one file, to be replayed and checked where their ledger is out of reach.

A bundle is JSON lines in UTF-8: a header, then one session a line. `docs/debugging.md` describes the fields. Each event has the exact
text that was hashed. Personal data is in it only where the histories given to `write_bundle` have it in clear.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.personal import Guarded, Personal, Sealed
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.unreadable import BundleRefused, UnknownEvent
from guestledger.engine.log.codec import decode, wire_name
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.personal_fields import as_sealed, personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy, began_at
from guestledger.engine.replay.check import RecordedDue, due_times
from guestledger.engine.replay.decisions import decisions

FORMAT = "guestledger-bundle"
VERSION = 1
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_AGAIN = "get the bundle again from its source"
_UPGRADE = "upgrade guestledger here"


class BundledSession(Guarded, frozen=True, kw_only=True):
    """One session of a bundle."""

    history: tuple[RecordedEvent, ...]
    due: tuple[RecordedDue, ...]
    """After each event, by the release that wrote the bundle; as far as that could decide."""

    @property
    def id(self) -> UUID:
        """The engine's id."""
        return self.history[0].stream_id


class Bundle(Guarded, frozen=True, kw_only=True):
    """Sessions of one ledger, and the policies under which they may have been decided, the latest first."""

    release: str
    """That wrote it."""
    ledger: UUID
    written_at: datetime
    policies: tuple[RecordedPolicy, ...]
    sessions: tuple[BundledSession, ...]


class _Kind(Struct, frozen=True):
    format: str = ""
    version: int = 0


class _Header(Struct, frozen=True, kw_only=True):
    format: str = FORMAT
    version: int = VERSION
    release: str
    ledger: UUID
    written_at: _Moment
    sessions: int
    policies: tuple[RecordedPolicy, ...]


class _Due(Struct, frozen=True, kw_only=True):
    policy: int
    """Its place in the header's policies."""
    steps: dict[str, _Moment]


class _Event(Guarded, frozen=True, kw_only=True, omit_defaults=True):
    position: int
    version: int
    event_type: str
    schema_version: int
    recorded_at: _Moment
    correlation_id: str
    causation_id: UUID
    actor: str
    data: msgspec.Raw
    leaf_hash: str
    due: _Due | None = None
    revealed: dict[str, Personal] | None = None


class _Session(Guarded, frozen=True, kw_only=True):
    id: UUID
    events: tuple[_Event, ...]


_encoder = msgspec.json.Encoder()
_kinds = msgspec.json.Decoder(_Kind)
_headers = msgspec.json.Decoder(_Header)
_sessions = msgspec.json.Decoder(_Session)


def write_bundle(
    histories: Sequence[Sequence[RecordedEvent]],
    *,
    policies: Sequence[RecordedPolicy],
    release: str,
    ledger: UUID,
    written_at: datetime,
) -> bytes:
    """The bundle of these sessions. `policies`: those that were in force, the latest first; at least one."""
    header = _Header(
        release=release, ledger=ledger, written_at=written_at, sessions=len(histories), policies=tuple(policies)
    )
    return _encoder.encode_lines([header, *(_written(history, policies) for history in histories)])


def _written(history: Sequence[RecordedEvent], policies: Sequence[RecordedPolicy]) -> _Session:
    due: list[_Due | None] = list(_due(history, policies))
    due += [None] * (len(history) - len(due))
    return _Session(
        id=history[0].stream_id,
        events=tuple(_event(recorded, steps) for recorded, steps in zip(history, due, strict=True)),
    )


def _due(history: Sequence[RecordedEvent], policies: Sequence[RecordedPolicy]) -> Iterator[_Due]:
    # A session on which this release fails can still be handed on.
    with suppress(Exception):
        for decision in decisions(history, policies):
            number, state = [one.policy for one in policies].index(decision.policy), decision.before
            for event in decision.recorded:
                state = evolve(state, event)
                yield _Due(policy=number, steps=dict(due_times(state, decision.policy)))


def _event(recorded: RecordedEvent, due: _Due | None) -> _Event:
    values = personal_values(recorded.event) if recorded.event.purpose else {}
    return _Event(
        position=recorded.position,
        version=recorded.version,
        event_type=wire_name(recorded.event),
        schema_version=recorded.schema_version,
        recorded_at=recorded.recorded_at,
        correlation_id=recorded.correlation_id,
        causation_id=recorded.causation_id,
        actor=recorded.actor,
        data=msgspec.Raw(recorded.data.encode()),
        leaf_hash=recorded.leaf_hash.hex(),
        due=due,
        revealed={path: value for path, value in values.items() if not isinstance(value, Sealed)} or None,
    )


def read_bundle(data: bytes, name: str = "the bundle") -> Bundle:
    """The bundle in `data`. Each event's leaf hash is computed again; old schema versions are upcast.

    Raises `BundleRefused`, with `name` in its text.
    """
    first, *lines = data.removesuffix(b"\n").split(b"\n")
    header = _header(first, name)
    if len(lines) != header.sessions:
        problem = f"the bundle has {header.sessions} sessions, but {len(lines)} are here: {_AGAIN}"
        raise BundleRefused(name, len(lines) + 1, problem)
    return Bundle(
        release=header.release,
        ledger=header.ledger,
        written_at=header.written_at,
        policies=header.policies,
        sessions=tuple(_read(line, header, name, number) for number, line in enumerate(lines, 2)),
    )


def _header(line: bytes, name: str) -> _Header:
    try:
        kind = _kinds.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        kind = _Kind()
    if kind.format != FORMAT:
        raise BundleRefused(name, 1, f"this is no bundle: its first line does not have the format {FORMAT!r}")
    if kind.version > VERSION:
        raise BundleRefused(
            name, 1, f"the format version is {kind.version}, and this release knows {VERSION}: {_UPGRADE}"
        )
    try:
        header = _headers.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        problem = f"the header cannot be read{_place(error)}: {_UPGRADE}, or {_AGAIN}"
        raise BundleRefused(name, 1, problem) from None
    if not header.policies:
        raise BundleRefused(name, 1, f"the header names no policy: {_AGAIN}")
    return header


def _read(line: bytes, header: _Header, name: str, number: int) -> BundledSession:
    try:
        session = _sessions.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleRefused(name, number, f"the session cannot be read{_place(error)}: {_AGAIN}") from None
    history: list[RecordedEvent] = []
    due: list[RecordedDue] = []
    try:
        _check_id(session.id)
        if [event.version for event in session.events] != list(range(1, len(session.events) + 1)) or not session.events:
            raise _Misfit(f"its events are not versions 1, 2, 3 and so on: {_AGAIN}")  # noqa: TRY301 - one place adds where
        for event in session.events:
            history.append(_recorded(session.id, event))
            if event.due is not None and len(due) == len(history) - 1:
                due.append(RecordedDue(policy=_policy(header, event.due, event.version), steps=event.due.steps))
    except UnknownEvent as error:
        raise BundleRefused(name, number, f"{error}: {_UPGRADE}") from None
    except _Misfit as misfit:
        raise BundleRefused(name, number, f"session {session.id}: {misfit}") from None
    return BundledSession(history=tuple(history), due=tuple(due))


class _Misfit(Exception):
    """Something in a session does not fit; the text says what."""


def _check_id(session_id: UUID) -> None:
    try:
        began_at(session_id)
    except ValueError:
        raise _Misfit(f"its id has a time after the year 9999: {_AGAIN}") from None


def _recorded(stream_id: UUID, event: _Event) -> RecordedEvent:
    try:
        text = bytes(event.data).decode()
    except UnicodeDecodeError:
        raise _Misfit(f"event {event.version} is not UTF-8: {_AGAIN}") from None
    hashed: dict[str, Any] = {
        "stream_id": stream_id,
        "version": event.version,
        "recorded_at": event.recorded_at,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "actor": event.actor,
        "data": text,
        "schema_version": event.schema_version,
    }
    leaf = leaf_hash(**hashed, event_type=event.event_type)
    if leaf.hex() != event.leaf_hash:
        raise _Misfit(f"event {event.version} does not fit its leaf hash, so it was changed: {_AGAIN}")
    try:
        decoded = decode(event.event_type, event.schema_version, text)
    except UnknownEvent as error:
        raise error.found_at(event.position, stream_id, event.version) from None
    recorded = RecordedEvent(**hashed, position=event.position, event=as_sealed(decoded), leaf_hash=leaf)
    return _revealed(recorded, event.revealed) if event.revealed else recorded


def _revealed(recorded: RecordedEvent, values: dict[str, str]) -> RecordedEvent:
    if recorded.event.purpose is None or not values.keys() <= personal_values(recorded.event).keys():
        raise _Misfit(f"event {recorded.version} has no commitments for the values revealed beside it: {_AGAIN}")
    return replace(recorded, event=with_values(recorded.event, values))


def _policy(header: _Header, due: _Due, version: int) -> Policy:
    if not 0 <= due.policy < len(header.policies):
        raise _Misfit(f"event {version} names policy {due.policy}, which the header does not have: {_AGAIN}")
    return header.policies[due.policy].policy


def _place(error: Exception) -> str:
    """Where a value does not fit. Not the whole message: it may quote the value."""
    _, found, path = str(error).rpartition(" - at ")
    return f" at {path}" if found else ""
