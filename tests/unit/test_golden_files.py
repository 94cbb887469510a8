"""One golden file for each event and schema version that a release wrote: old logs stay readable."""

import re
from pathlib import Path

import pytest

from guestledger.engine.domain.events import EVENT_TYPES, Event
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.log.codec import decode, encode, wire_name
from guestledger.engine.log.upcasting import UPCASTERS
from tests.unit.samples import ONE_OF_EACH

GOLDEN = Path(__file__).parent.parent / "golden"


def _name_and_version(file: Path) -> tuple[str, int]:
    parts = re.fullmatch(r"(\w+)\.v(\d+)\.json", file.name)
    assert parts, f"{file.name} is not <EventName>.v<version>.json"
    return parts[1], int(parts[2])


FILES = {_name_and_version(file): file.read_bytes().decode() for file in sorted(GOLDEN.iterdir())}


@pytest.mark.parametrize(("name", "version"), FILES)
def test_every_golden_file_can_be_decoded(name: str, version: int) -> None:
    assert type(decode(name, version, FILES[name, version])) is EVENT_TYPES[name]


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=wire_name)
def test_encoding_and_decoding_match_the_golden_file(event: Event) -> None:
    name, version = wire_name(event), event.schema_version
    assert decode(name, version, FILES[name, version]) == event
    assert encode(event) == FILES[name, version]


def test_every_event_version_has_a_golden_file() -> None:
    wanted = {(name, version) for name, kind in EVENT_TYPES.items() for version in range(1, kind.schema_version + 1)}
    assert set(FILES) == wanted


def test_every_older_event_version_has_an_upcaster() -> None:
    older = {(name, version) for name, kind in EVENT_TYPES.items() for version in range(1, kind.schema_version)}
    assert set(UPCASTERS) == older


@pytest.mark.parametrize(
    ("event_type", "version"),
    [("SessionCreated", 99), ("SessionCreated", 0), ("SessionTeleported", 1), ("", 1), ("sessioncreated", 1)],
)
def test_decoding_an_event_of_a_newer_release_names_it_and_fails(event_type: str, version: int) -> None:
    with pytest.raises(UnknownEvent, match=f"{event_type!r} with schema version {version} is unknown to this release"):
        decode(event_type, version, "{}")
