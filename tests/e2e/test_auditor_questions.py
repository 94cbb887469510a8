"""The questions of docs/auditing.md: each command that the page shows gives the right answer."""

import csv
import io
import re
import shlex
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import pytest_asyncio

from guestledger import GuestConsent, GuestRequest, InDoubt, Settings, SimulatorConfig, Verdict, connect
from guestledger.adapters.simulator import Simulator
from tests import postgres
from tests.docs.blocks import ROOT, Block, blocks_of
from tests.e2e.command import Result, environment, run
from tests.keys import KEY

PAGE = ROOT / "docs" / "auditing.md"
_BY_PRIVACY = re.compile(r"--(?:subject|ip|fingerprint|reveal)\b")


def questions() -> list[Block]:
    """The commands below the page's heading, in order."""
    text = PAGE.read_text()
    first = text[: text.index("## Eleven questions")].count("\n")
    last = text[: text.index("## What is recorded of consent")].count("\n")
    return [block for block in blocks_of(PAGE) if first < block.line < last]


class Given(NamedTuple):
    """A ledger, its sessions by name, and the moment after which the last requests came."""

    env: dict[str, str]
    privacy_env: dict[str, str]
    sessions: dict[str, UUID]
    boundary: datetime


def guest(number: int, *, subject: str | None = None, consents: bool = True, notice: str = "privacy-2026-04") -> Any:
    return GuestRequest(
        channel_id="ch_main",
        ip_address=f"203.0.113.{number}",
        user_agent="Mozilla/5.0",
        timestamp="2024-05-20T14:21:59Z",
        subject_id=subject,
        consent=GuestConsent(data_processing=consents, gdpr_compliant=True, notice=notice),
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def given(runtime_server: str, migrated_template: str) -> AsyncIterator[Given]:
    async with (
        postgres.new_database(runtime_server, migrated_template) as url,
        Simulator() as simulator,
        postgres.new_login(postgres.as_administrator(url), "IN ROLE guestledger_auditor") as auditor,
        postgres.new_login(postgres.as_administrator(url), "IN ROLE guestledger_privacy") as privacy,
    ):
        sessions, boundary = await _sessions(url, simulator)
        yield Given(environment(auditor, encryption_key=""), environment(privacy), sessions, boundary)


async def _sessions(url: str, simulator: Simulator) -> tuple[dict[str, UUID], datetime]:
    settings = Settings(
        encryption_key=KEY,
        database_url=url,
        cxone_url=simulator.url,
        cxone_client_id=simulator.client_id,
        cxone_client_secret=simulator.client_secret,
        webhook_url=simulator.webhook_url,
        webhook_allow_private=True,
        cxone_in_doubt=InDoubt.PARK,
    )
    made = {}
    async with connect(settings, scheduler=False) as ledger:
        made["active"] = await ledger.open_session(guest(1, subject="crm-1001"))
        made["refused"] = await ledger.open_session(guest(2, consents=False))
        made["again"] = await ledger.open_session(guest(9, subject="crm-1001", notice="privacy-2025-01"))
        await ledger.scheduler.run_until_idle()
        simulator.config = SimulatorConfig(webhook_status=410)
        made["dead"] = await ledger.open_session(guest(3, notice="=HYPERLINK(1)"))
        await ledger.scheduler.run_once()
        simulator.config = SimulatorConfig(drop_share=1)
        for name in ("parked", "given up"):
            made[name] = await ledger.open_session(guest(4))
        simulator.config = SimulatorConfig()
        boundary = datetime.now(UTC)
        await ledger.resolve(made["given up"].id, Verdict.ABANDON, decided_by="ops-jane", reason="looked into CXone")
        made["owed"] = await ledger.open_session(guest(1))
        await ledger.projections.catch_up()
    return {name: session.id for name, session in made.items()}, boundary


async def ask(number: int, given: Given, *more: str, **dates: datetime) -> Result:
    """The command of a question, as the page shows it, with these dates in place of the page's."""
    block = questions()[number - 1]
    text = block.text.partition(" > ")[0]
    for shown, real in dates.items():
        text = text.replace(shown.removeprefix("d").replace("_", "-"), real.isoformat())
    program, *arguments = shlex.split(text)
    assert program == "guestledger"
    env = given.privacy_env if _BY_PRIVACY.search(text) else given.env
    result = await run(*arguments, *more, env=env)
    assert result.code == 0, (str(block), result)
    return result


def named(given: Given, result: Result, field: str = "id") -> set[str]:
    names = {str(id_): name for name, id_ in given.sessions.items()}
    return {names[row[field]] for row in result.out}


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_page_asks_eleven_questions() -> None:
    text = PAGE.read_text()
    assert re.findall(r"^(\d+)\\\. ", text, re.MULTILINE) == [str(number) for number in range(1, 12)]
    assert len(questions()) == 11


async def test_who_refused_consent_and_which_notice_they_saw(given: Given) -> None:
    result = await ask(1, given, "--json")
    assert named(given, result) == {"refused"}
    [entry] = result.out
    assert (entry["notice"], entry["refusedFlags"]) == ("privacy-2026-04", ["dataProcessing"])
    table = (await ask(1, given)).text
    assert re.search(r"privacy-2026-04 +dataProcessing", table)


async def test_all_sessions_of_one_person(given: Given) -> None:
    assert named(given, await ask(2, given, "--json")) == {"active", "again"}


async def test_everything_on_one_guest_by_address_in_clear(given: Given) -> None:
    result = await ask(3, given)
    assert named(given, result) == {"active", "owed"}
    [first, *_] = result.out
    assert (first["event"], first["data"]["guest"]["ip_address"]) == ("ConsentRecorded", "203.0.113.1")
    assert {row["data"]["guest_token"] for row in result.out if row["event"] == "SessionCreated"} == {"•••"}


async def test_consents_under_one_notice(given: Given) -> None:
    assert named(given, await ask(4, given, "--json")) == {"active", "parked", "given up", "owed"}


async def test_sessions_whose_webhook_was_never_taken(given: Given) -> None:
    assert named(given, await ask(5, given, "--json")) == {"dead", "owed"}


async def test_a_month_as_csv_by_when_the_request_was_made(given: Given) -> None:
    dates = {"d2026_05_01": given.boundary.replace(year=2020), "d2026_06_01": given.boundary}
    result = await ask(6, given, **dates)
    rows = list(csv.DictReader(io.StringIO(result.text, newline="")))
    assert {row["id"] for row in rows} == {str(id_) for name, id_ in given.sessions.items() if name != "owed"}
    [given_up] = [row for row in rows if row["id"] == str(given.sessions["given up"])]
    assert given_up["complianceStatus"] == "abandoned"
    assert datetime.fromisoformat(given_up["timestamp"]) > given.boundary
    [dead] = [row for row in rows if row["id"] == str(given.sessions["dead"])]
    assert dead["notice"] == "'=HYPERLINK(1)"
    assert result.text.count("\r\n") == len(rows) + 1
    assert "203.0.113." not in result.text


async def test_that_nothing_was_changed_since_a_date(given: Given) -> None:
    first = (await ask(7, given, "--json", d2026_06_01=given.boundary)).out[0]
    assert first["intact"]
    assert first["events"] > 20
    await ask(3, given)  # a look: an event after that date
    again = (await ask(7, given, "--json", "--digest", first["digest"], d2026_06_01=given.boundary)).out[0]
    assert again["sameDigest"]


async def test_which_attempts_were_in_doubt_and_who_decided(given: Given) -> None:
    result = await ask(8, given, "--json")
    assert named(given, result) == {"parked", "given up"}
    found = {row["id"]: (row["decision"], row["decidedBy"], row["decisionReason"]) for row in result.out}
    assert found[str(given.sessions["parked"])] == (None, None, None)
    assert found[str(given.sessions["given up"])] == ("abandon", "ops-jane", "looked into CXone")


async def test_latency_of_each_channel_and_day(given: Given) -> None:
    [row] = (await ask(9, given, "--json")).out
    assert (row["channelId"], row["created"], row["refused"], row["abandoned"]) == ("ch_main", 4, 1, 1)
    assert row["p50"] <= row["p95"] <= row["p99"]
    assert row["averageLatency"] > 0
    table = (await ask(9, given, "--csv")).text.splitlines()
    assert table[0].startswith("day,channelId,successRate")
    assert len(table) == 2


async def test_everything_done_by_one_person(given: Given) -> None:
    looked = await run(
        *("audit", "--ip", "203.0.113.4", "--json", "--reveal", "--reason", "ticket 7", "--by", "ops-jane"),
        env=given.privacy_env,
    )
    assert {row["ipAddress"] for row in looked.out} == {"203.0.113.4"}
    rows = (await ask(10, given, "--json")).out
    assert [row["event"] for row in rows] == ["AbandonmentDecided", "PersonalDataRevealed"]
    assert rows[0]["id"] == str(given.sessions["given up"])
    assert set(rows[1]["data"]["sessions"]) == {str(given.sessions[name]) for name in ("parked", "given up")}
    assert rows[1]["data"]["reason"] == "ticket 7"


async def test_a_look_names_no_more_sessions_than_are_shown(given: Given) -> None:
    reveal = ("--reveal", "--reason", "ticket 8", "--by", "ops-joe")
    table = await run("audit", "--limit", "1", *reveal, env=given.privacy_env)
    lines = await run("events", "--ip", "203.0.113.9", "--limit", "2", "--csv", *reveal, env=given.privacy_env)
    replayed = await run("replay", str(given.sessions["dead"]), "--json", *reveal, env=given.privacy_env)

    assert re.search(r"203\.0\.113\.1 ", table.text)
    assert table.text.rstrip().endswith("or --json for all")
    assert "203.0.113.9" in lines.text
    assert replayed.out[0]["frames"][-1]["state"]["guest"]["ip_address"] == "203.0.113.3"
    assert replayed.out[0]["frames"][-1]["state"]["guest_token"] == "•••"
    looks = (await run("events", "--actor", "ops-joe", "--json", env=given.env)).out
    assert [look["data"]["sessions"] for look in looks] == [
        [str(given.sessions[name])] for name in ("owed", "again", "dead")
    ]


async def test_one_person_is_erased_and_found_no_more(given: Given) -> None:
    await ask(11, given)  # the last question: it changes the ledger

    assert (await ask(2, given, "--json")).out == []
    audit = await run("audit", "--json", "--reveal", "--reason", "ticket 9", env=given.privacy_env)
    erased = {str(given.sessions[name]) for name in ("active", "again")}
    assert {row["id"] for row in audit.out if row["ipAddress"] is None} == erased
    assert (await run("verify", env=given.env)).code == 0
