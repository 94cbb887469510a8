"""Old schema versions are upcast to the current one when they are read; what is stored never changes.

No event has an old version yet, so these tests use an event type of their own, in its third version.
"""

from typing import Any, ClassVar

import msgspec
import pytest

from guestledger.engine.domain.events import EVENT_TYPES, SessionEvent
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.log import codec, upcasting
from guestledger.engine.log.codec import decode, encode
from tests.unit.samples import CHANNEL, START, was_created


class CoffeeServed(SessionEvent, frozen=True, kw_only=True):
    """Version 1 had `mug` and `tenths`. Version 2 renamed the mug, version 3 counts in degrees."""

    schema_version: ClassVar[int] = 3

    cup: str
    temperature_c: int


SERVED = CoffeeServed(at=START, channel_id=CHANNEL, cup="blue", temperature_c=80)
COMMON = f'"at":"2024-05-20T14:22:00Z","channel_id":"{CHANNEL}"'
STORED = {
    1: f'{{{COMMON},"mug":"blue","tenths":800}}',
    2: f'{{{COMMON},"cup":"blue","tenths":800}}',
    3: f'{{{COMMON},"cup":"blue","temperature_c":80}}',
}


def _rename_cup(data: dict[str, Any]) -> dict[str, Any]:
    data["cup"] = data.pop("mug")
    return data


def _count_in_degrees(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "tenths"} | {"temperature_c": data["tenths"] // 10}


@pytest.fixture(autouse=True)
def coffee(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the event type and its upcasters."""
    monkeypatch.setitem(EVENT_TYPES, "CoffeeServed", CoffeeServed)  # type: ignore[arg-type]
    monkeypatch.setitem(codec._decoders, "CoffeeServed", msgspec.json.Decoder(CoffeeServed))
    monkeypatch.setitem(codec._WIRE_NAMES, CoffeeServed, "CoffeeServed")
    steps = {("CoffeeServed", 1): _rename_cup, ("CoffeeServed", 2): _count_in_degrees}
    monkeypatch.setattr(upcasting, "UPCASTERS", steps)


@pytest.mark.parametrize("version", STORED)
def test_every_version_is_upcast_to_the_current_one(version: int) -> None:
    assert decode("CoffeeServed", version, STORED[version]) == SERVED


def test_events_are_written_in_the_current_version() -> None:
    assert codec.wire_name(SERVED) == "CoffeeServed"
    assert encode(SERVED) == STORED[3]


@pytest.mark.parametrize("version", [0, 4])
def test_a_version_outside_the_known_ones_is_rejected(version: int) -> None:
    with pytest.raises(UnknownEvent, match=rf"'CoffeeServed' with schema version {version} is unknown") as caught:
        decode("CoffeeServed", version, STORED[3])
    assert (caught.value.event_type, caught.value.schema_version) == ("CoffeeServed", version)


def test_a_missing_upcaster_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upcasting, "UPCASTERS", {("CoffeeServed", 1): _rename_cup})
    with pytest.raises(KeyError):
        decode("CoffeeServed", 1, STORED[1])


def test_upcast_data_that_does_not_fit_is_reported_without_its_values() -> None:
    data = STORED[1].replace('"blue"', '["gt_secret"]')
    with pytest.raises(UnknownEvent, match=r"schema version 1 does not fit at `\$.cup`") as caught:
        decode("CoffeeServed", 1, data)
    assert "gt_secret" not in str(caught.value)


def test_invalid_event_data_is_reported_without_its_values() -> None:
    data = encode(was_created()).replace('"attempt":1', '"attempt":"gt_secret"')
    with pytest.raises(UnknownEvent, match=r"schema version 1 does not fit at `\$.attempt`") as caught:
        decode("SessionCreated", 1, data)
    assert "gt_secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
