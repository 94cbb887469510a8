"""Old schema versions are read as today's, by a chain of pure steps; what is stored is never touched.

How a chain of versions is read is shown by one that is made up here: `SessionCreated` in its third.
"""

from typing import Any

import msgspec
import pytest

from guestledger.engine.domain.errors import UnknownEvent
from guestledger.engine.domain.events import Event, SessionCreated
from guestledger.engine.log import upcasting as upcast
from guestledger.engine.log.codec import EVENT_TYPES, decode, encode
from tests.unit.samples import lookup_failed, was_created, webhook_failed

FIRST = encode(was_created()).replace('"latency_ms":0', '"latency_s":2').replace('"session_id"', '"remote_id"')
SECOND = encode(was_created()).replace('"latency_ms":0', '"latency_s":2')


def _rename_id(data: dict[str, Any]) -> dict[str, Any]:
    data["session_id"] = data.pop("remote_id")
    return data


def _count_in_ms(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "latency_s"} | {
        "latency_ms": 1_000 * data["latency_s"]
    }


@pytest.fixture
def third_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionCreated, "schema_version", 3)
    steps = {("SessionCreated", 1): _rename_id, ("SessionCreated", 2): _count_in_ms}
    monkeypatch.setattr(upcast, "UPCASTERS", steps)


@pytest.mark.usefixtures("third_version")
@pytest.mark.parametrize(("version", "data"), [(1, FIRST), (2, SECOND), (3, encode(was_created(latency_ms=2_000)))])
def test_every_version_is_upcast_to_the_current_one(version: int, data: str) -> None:
    assert decode("SessionCreated", version, data) == was_created(latency_ms=2_000)


@pytest.mark.usefixtures("third_version")
def test_a_version_newer_than_the_current_one_is_rejected() -> None:
    with pytest.raises(UnknownEvent, match=r"'SessionCreated' with schema version 4 is not known .*upgrade"):
        decode("SessionCreated", 4, FIRST)


def _without(event: Event, fields: set[str]) -> str:
    """The event's data as a version wrote it that did not have these fields yet."""
    written = msgspec.json.decode(encode(event))
    return msgspec.json.encode({name: value for name, value in written.items() if name not in fields}).decode()


def test_a_version_1_webhook_failure_is_upcast_without_retry_after() -> None:
    first = _without(webhook_failed(), {"retry_after_given", "retry_after_ms", "reason"})
    assert decode("WebhookFailed", 1, first) == webhook_failed(reason="500 ms backoff")


def test_a_version_1_lookup_throttle_is_upcast_with_its_retry_after_as_reason() -> None:
    told = {"kind": None, "status": 429, "message": "Retry-After of 30000 ms", "wait_ms": 30_120}
    written = lookup_failed(**told, reason="Retry-After of 30000 ms, plus backoff")
    assert decode("ChannelLookupFailed", 1, _without(written, {"reason"})) == written


@pytest.mark.parametrize(("wait_ms", "reason"), [(250, "250 ms backoff"), (None, None)])
def test_a_version_1_lookup_failure_is_upcast_with_its_backoff_as_reason(
    wait_ms: int | None, reason: str | None
) -> None:
    written = lookup_failed(wait_ms=wait_ms, reason=reason)
    assert decode("ChannelLookupFailed", 1, _without(written, {"reason"})) == written


def test_every_older_event_version_has_an_upcaster() -> None:
    taken = {(name, version) for name, kind in EVENT_TYPES.items() for version in range(1, kind.schema_version)}
    assert set(upcast.UPCASTERS) == taken


def test_invalid_event_data_is_reported_without_its_values() -> None:
    data = encode(was_created()).replace('"attempt":1', '"attempt":"gt_secret"')
    with pytest.raises(UnknownEvent, match=r"schema version 1 does not fit at `\$.attempt`") as caught:
        decode("SessionCreated", 1, data)
    assert "gt_secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
