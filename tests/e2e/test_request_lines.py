import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.command import environment, run

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_LINE = 64 * 1024


def line(number: int, **changes: Any) -> bytes:
    return msgspec.json.encode(guests.guest(number, **changes))


def line_without(number: int, field: str) -> bytes:
    return msgspec.json.encode({name: value for name, value in guests.guest(number).items() if name != field})


# What each bad line is answered with: the field that is wrong, and words of the reason.
BAD_LINES = [
    (b"Rumpelstilzchen was here", "", "is not JSON"),
    (line(1)[:-1], "", "is not JSON"),
    (b'["Rumpelstilzchen"]', "", "expected object, got array"),
    (b'{"userAgent": "Rumpelstilzchen \xff"}', "", "is not UTF-8"),
    (line_without(2, "channelId"), "channelId", "is missing"),
    (line_without(3, "ipAddress"), "ipAddress", "is missing"),
    (line(4, channelId=17), "channelId", "expected str, got int"),
    (line(5, userAgent=["Rumpelstilzchen"]), "userAgent", "expected str, got array"),
    (line(6, consent="Rumpelstilzchen"), "consent", "expected object, got str"),
    (line(7, consent=guests.CONSENT | {"marketing": "Rumpelstilzchen"}), "consent.marketing", "expected bool, got str"),
    (line(8, userAgent="Rumpelstilzchen" * 100), "userAgent", "is longer than 1024 characters"),
    (line(9, idempotencyKey="Rumpelstilzchen" * 100), "idempotencyKey", "is longer than 255 characters"),
    (line(10, channelId=""), "channelId", "must not be empty"),
    (line(11, ipAddress="Rumpelstilzchen"), "ipAddress", "is not an IPv4 or IPv6 address"),
    (line(12, timestamp="Rumpelstilzchen"), "timestamp", "is not an RFC 3339 time"),
    (line(13, campaign="Rumpelstilzchen\x07"), "campaign", "contains control characters"),
    (line(14, fullName="Rumpelstilzchen"), "fullName", "is not a field of a guest request"),
    (line(15, **{"Rumpelstilzchen, Jr.": 1}), "", "has a field that a guest request does not have"),
    (line(16, campaign="Rumpelstilzchen" * MAX_LINE), "", f"is longer than {MAX_LINE} bytes"),
]


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(inactive_channels=frozenset({"ch_closed"}))) as running:
        yield running


@pytest.fixture
def env(database_url: str, simulator: Simulator) -> dict[str, str]:
    return environment(database_url, simulator)


async def test_invalid_line_is_answered_in_its_place(env: dict[str, str], database_url: str, tmp_path: Path):
    pairs = [(bad, line(100 + number)) for number, (bad, *_) in enumerate(BAD_LINES)]
    file = tmp_path / "requests.jsonl"
    file.write_bytes(b"\n".join(line for pair in pairs for line in pair))

    opened = await run("open", str(file), env=env)

    assert opened.code == 1, opened.err
    assert [answer["line"] for answer in opened.out] == list(range(1, 2 * len(pairs) + 1))
    for answer, (_, field, reason) in zip(opened.out[::2], BAD_LINES, strict=True):
        assert answer.keys() == {"line", "error"}
        assert answer["error"]["field"] == field
        assert reason in answer["error"]["reason"]
    assert [answer["status"] for answer in opened.out[1::2]] == ["active"] * len(pairs)
    assert "Rumpelstilzchen" not in opened.text + opened.err
    assert guests.ADDRESSES not in opened.text + opened.err
    assert len(await raw_log.accepted(database_url)) == len(pairs)


async def test_unusable_channel_is_named_in_its_answer(env: dict[str, str]):
    requests = [
        guests.guest(1, channelId="ch_unknown_7"),
        guests.guest(2),
        guests.guest(3, channelId="ch_closed"),
        guests.guest(4, channelId="../../oauth/token"),
    ]

    opened = await run("open", "-", env=env, stdin=guests.as_lines(requests))

    assert opened.code == 1, opened.err
    unknown, fine, closed, elsewhere = opened.out
    assert fine["status"] == "active"
    for answer in (unknown, closed, elsewhere):
        assert (answer["status"], answer["error"]["field"]) == ("rejected", "channelId")
        assert answer["channelId"] in answer["error"]["reason"]


async def test_refused_consent_is_recorded_and_nothing_is_sent(
    env: dict[str, str], database_url: str, simulator: Simulator
):
    flags = [{}, {"dataProcessing": True, "gdprCompliant": 1}, {"dataProcessing": "true", "gdprCompliant": True}]
    requests = [guests.guest(number, consent=consent) for number, consent in enumerate(flags)]

    opened = await run("open", "-", env=env, stdin=guests.as_lines(requests))

    assert opened.code == 1, opened.err
    assert [(answer["status"], answer["error"]["field"]) for answer in opened.out] == [("refused", "consent")] * 3
    named = ["dataProcessing, gdprCompliant", ": gdprCompliant", ": dataProcessing"]
    assert all(words in answer["error"]["reason"] for words, answer in zip(named, opened.out, strict=True))
    assert await raw_log.counts(database_url) == {"ConsentRefused": 3}
    assert not simulator.requests


async def test_blank_lines_and_a_byte_order_mark_are_skipped(
    env: dict[str, str],
):
    given = BYTE_ORDER_MARK + line(1) + b"\r\n\n  \t\r\n" + line(2) + b"\n\n" + line(3)

    opened = await run("open", "-", env=env, stdin=given)

    assert opened.code == 0, opened.err
    assert [(answer["line"], answer["status"]) for answer in opened.out] == [
        (1, "active"),
        (4, "active"),
        (6, "active"),
    ]


async def test_empty_file_succeeds(env: dict[str, str], tmp_path: Path):
    file = guests.write_file(tmp_path, [])

    of_file, of_mark = await asyncio.gather(
        run("open", file, env=env), run("open", "-", env=env, stdin=BYTE_ORDER_MARK)
    )

    assert of_file == of_mark == (0, "", "")


async def test_same_key_returns_the_same_session_or_a_conflict(env: dict[str, str], simulator: Simulator):
    first = guests.guest(1, idempotencyKey="key-1")
    fresh = guests.guest(2, idempotencyKey="key-1")  # from another address
    other = guests.guest(1, idempotencyKey="key-1", channelId="ch_another")

    opened = await run("open", "-", env=env, stdin=guests.as_lines([first, fresh, other]))
    again = await run("open", "-", "--no-wait", env=env, stdin=guests.as_lines([first]))

    assert (opened.code, again.code) == (1, 0), opened.err + again.err
    told, told_again, conflict = opened.out
    [later] = again.out
    assert told["status"] == "active"
    assert told | {"line": 2} == told_again
    assert later == told
    assert conflict["error"]["field"] == "idempotencyKey"
    assert told["id"] in conflict["error"]["reason"]
    assert "channelId" in conflict["error"]["reason"]
    assert guests.ADDRESSES not in opened.text
    assert len(raw_log.remote_sessions(simulator)) == 1
