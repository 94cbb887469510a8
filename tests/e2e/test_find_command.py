"""`guestledger find`: from a complaint to the session, without a look at personal data."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
import pytest_asyncio

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests import postgres
from tests.e2e import guests
from tests.e2e.command import Result, assert_one_line, environment, run

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
PEOPLE = [
    guests.guest(0, channelId="ch_busy", idempotencyKey="order-1"),
    guests.guest(1, channelId="ch_quiet", subjectId="crm-7"),
    guests.guest(2, channelId="ch_busy", consent=guests.NO_CONSENT),
]


class Shown(NamedTuple):
    """A ledger with a throttled session on each of two channels and a refused one, opened now."""

    env: dict[str, str]
    ids: list[str]

    async def find(self, *arguments: str) -> Result:
        result = await run("find", *arguments, env=self.env)
        assert not guests.personal(PEOPLE).search(result.text + result.err)
        return result


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shown(runtime_server: str, migrated_template: str) -> AsyncIterator[Shown]:
    throttling = SimulatorConfig(throttle_share=1, retry_after_s=600)
    async with postgres.new_database(runtime_server, migrated_template) as url, Simulator(throttling) as cxone:
        env = environment(url, cxone)
        lines = guests.as_lines(PEOPLE)
        opened = (await run("open", "-", "--no-wait", "--concurrency", "1", env=env, stdin=lines)).out
        yield Shown(env, [answer["id"] for answer in opened])


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_time_finds_everything_that_happened_around_it(shown: Shown) -> None:
    result = await shown.find("--around", "1 minute ago")
    first, _header, *rows, following = result.text.splitlines()
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"around .+, between .+ and .+ \(all times are UTC\)", first)
    assert {row.split()[0] for row in rows} == {*shown.ids}
    assert following.startswith("next: `guestledger replay ID`")


async def test_one_match_comes_with_the_next_commands(shown: Shown) -> None:
    result = await shown.find("--ip", PEOPLE[0]["ipAddress"], "--around", "0 s ago")
    assert result.code == 0
    [row] = [line for line in result.text.splitlines() if line.startswith(shown.ids[0])]
    assert "CreationThrottled" in row
    assert "ch_busy" in row
    assert f"`guestledger replay {shown.ids[0]}`" in result.text.splitlines()[-1]
    assert f"`guestledger why {shown.ids[0]}`" in result.text.splitlines()[-1]


async def test_80_columns_keep_ids_and_times_in_one_piece(shown: Shown) -> None:
    terminal = {**shown.env, "COLUMNS": "80", "TTY_COMPATIBLE": "1", "NO_COLOR": "1"}
    for arguments in (("--around", "0 s ago"), ("--session", shown.ids[0])):
        lines = (await run("find", *arguments, env=terminal)).text.splitlines()
        table = [ESCAPES.sub("", line) for line in lines if not line.startswith(("around", "next"))]
        assert max(map(len, table)) <= 80
        [row] = [line for line in table if line.startswith(shown.ids[0])]
        assert re.search(r"  \d+ s before|  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", row), row


async def test_each_filter_finds_its_session(shown: Shown) -> None:
    busy, quiet, refused = shown.ids
    for arguments, expected in {
        ("--subject", "crm-7"): [quiet],
        ("--key", "order-1"): [busy],
        ("--session", refused): [refused],
        ("--fingerprint", guests.fingerprint(PEOPLE[1])): [quiet],
        ("--around", "0 s ago", "--channel", "ch_busy", "--status", "throttled"): [busy],
        ("--around", "0 s ago", "--correlation", quiet): [quiet],
        ("--around", "0 s ago", "--status", "throttled", "--status", "refused", "--limit", "1"): [refused],
    }.items():
        result = await shown.find("--json", *arguments)
        assert [found["id"] for found in result.out] == expected, (arguments, result)


async def test_json_names_the_nearest_event_and_the_time_that_was_taken(shown: Shown) -> None:
    [found] = (await shown.find("--json", "--key", "order-1", "--around", "2 minutes ago")).out
    assert list(found)[:5] == ["id", "sessionId", "status", "channelId", "openedAt"]
    assert (found["event"], found["version"], found["cause"]) == ("ConsentRecorded", 1, "throttled")
    assert found["recordedAt"] == found["openedAt"] > found["around"]


async def test_no_match_says_what_was_looked_at_and_the_nearest_earlier_one(shown: Shown) -> None:
    later = f"{datetime.now(UTC) + timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}"
    result = await shown.find("--around", later, "--channel", "ch_quiet")
    assert (result.code, result.text) == (1, "")
    assert "no session on channel 'ch_quiet' had an event between" in result.err
    assert f"nearest earlier one: {shown.ids[1]}, CreationDeferred at" in result.err


async def test_an_unknown_guest_is_not_found(shown: Shown) -> None:
    result = await shown.find("--subject", "nobody")
    assert (result.code, result.text) == (1, "")
    assert "there is no session of this guest" in result.err
    assert "nobody" not in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("give a time, a guest, a session or an idempotency key", "`guestledger sessions`")),
        (("--channel", "ch_busy"), ("give a time",)),
        (("--within", "10m"), ("--around",)),
        (("--around", "25:00"), ("'25:00' is not a time of day",)),
        (("--around", "soon"), ("'soon' is not a time",)),
        (("--around", "0001-01-01", "--within", "2 days"), ("years 1 to 9999",)),
        (("--around", "02:14", "--within", "0m"), ("'0m' is not a span",)),
        (("--around", "02:14", "--within", "1 hour ago"), ("is not a span",)),
        (("--ip", "here"), ("not an IPv4 or IPv6 address",)),
        (("--correlation", "x", "--session", "y"), ("needs a time",)),
        (("--around", "02:14", "--status", "lost"), ("'lost' is not one of",)),
    ],
)
async def test_wrong_use_is_one_line(shown: Shown, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(await shown.find(*arguments), *words)


async def test_a_search_by_guest_needs_a_user_who_may(shown: Shown) -> None:
    url = shown.env["GUESTLEDGER_DATABASE_URL"]
    async with postgres.new_login(postgres.as_administrator(url), "IN ROLE guestledger_auditor") as auditor:
        env = {**shown.env, "GUESTLEDGER_DATABASE_URL": auditor}
        assert_one_line(await run("find", "--ip", "203.0.113.7", env=env), "personal")
        assert_one_line(await run("find", "--key", "order-1", env=env), "personal")
        assert (await run("find", "--around", "1 minute ago", env=env)).code == 0
