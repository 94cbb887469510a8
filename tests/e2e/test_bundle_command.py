"""`guestledger bundle`: sessions in a file, and that file replayed without a database."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from guestledger.adapters.simulator import Simulator
from guestledger.engine.domain.policy import Policy
from guestledger.engine.replay.bundle import write_bundle
from tests import postgres
from tests.e2e import guests
from tests.e2e.command import assert_one_line, environment, run
from tests.lives import stored
from tests.unit.histories import in_force
from tests.unit.samples import SESSION, START, has_failed

NO_DATABASE = environment()
GUESTS = [guests.guest(number) for number in range(2)]


class Bundled(NamedTuple):
    """A ledger with two sessions: the ids of the engine and of the provider."""

    env: dict[str, str]
    ids: list[str]
    session_ids: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bundled(runtime_server: str, migrated_template: str) -> AsyncIterator[Bundled]:
    async with postgres.new_database(runtime_server, migrated_template) as url, Simulator() as simulator:
        env = environment(url, simulator)
        opened = await run("open", "-", env=env, stdin=guests.as_lines(GUESTS))
        assert opened.code == 0, opened.err
        yield Bundled(env, [one["id"] for one in opened.out], [one["sessionId"] for one in opened.out])


def names_in(place: Path) -> list[str]:
    return [file.name for file in place.iterdir()]


async def test_a_bundle_is_replayed_without_a_database(bundled: Bundled, tmp_path: Path):
    file = tmp_path / "one.jsonl"
    written = await run("bundle", bundled.session_ids[0], "-o", str(file), env=bundled.env)
    assert (written.code, written.text) == (0, "")
    assert written.err == f"guestledger: 1 sessions written to {file}\n"

    of_ledger, of_bundle, table = await asyncio.gather(
        run("replay", bundled.ids[0], "--json", env=bundled.env),
        run("replay", str(file), "--json", env=NO_DATABASE),
        run("replay", str(file), "--at", "1", env=NO_DATABASE),
    )

    assert (of_bundle.code, of_bundle.err) == (0, "")
    assert of_bundle.out == of_ledger.out
    assert table.code == 0
    assert "ConsentRecorded" in table.text
    assert file.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == [file.name]


async def test_one_session_of_several_in_a_bundle_is_named(bundled: Bundled, tmp_path: Path):
    file = tmp_path / "two.jsonl"
    assert (await run("bundle", *bundled.ids, bundled.ids[0], "-o", str(file), env=bundled.env)).code == 0

    unnamed, unknown, named, by_provider = await asyncio.gather(
        run("replay", str(file), env=NO_DATABASE),
        run("replay", f"{file}#nobody", env=NO_DATABASE),
        run("replay", f"{file}#{bundled.ids[1]}", "--json", env=NO_DATABASE),
        run("replay", f"{file}#{bundled.session_ids[1]}", "--json", env=NO_DATABASE),
    )

    assert_one_line(unnamed, f"{file} has 2 sessions: name one, such as {file}#{bundled.ids[0]}")
    assert_one_line(unknown, "does not have this session", *bundled.ids)
    assert named.out == by_provider.out
    assert named.out[0]["id"] == bundled.ids[1]


async def test_personal_data_is_left_out_unless_it_is_revealed(bundled: Bundled, tmp_path: Path):
    plain, revealed = tmp_path / "plain.jsonl", tmp_path / "revealed.jsonl"
    why = ("--reveal", "--reason", "ticket 4711", "--by", "ops-jane")
    await run("bundle", *bundled.ids, "-o", str(plain), env=bundled.env)
    shown = await run("bundle", *bundled.ids, "-o", str(revealed), *why, env=bundled.env)
    assert shown.code == 0, shown.err
    looks = await run("events", "--type", "PersonalDataRevealed", "--json", env=bundled.env)

    for guest in GUESTS:
        assert guest["ipAddress"] not in plain.read_text()
    first = json.loads(revealed.read_text().splitlines()[1])["events"][0]
    assert first["revealed"]["guest.ip_address"] == GUESTS[0]["ipAddress"]
    assert GUESTS[0]["ipAddress"] not in json.dumps(first["data"])
    [look] = looks.out
    assert (look["data"]["reason"], look["data"]["revealed_by"]) == ("ticket 4711", "ops-jane")
    assert sorted(look["data"]["sessions"]) == sorted(bundled.ids)

    masked, refused, clear = await asyncio.gather(
        run("replay", f"{revealed}#{bundled.ids[0]}", "--json", env=NO_DATABASE),
        run("replay", f"{revealed}#{bundled.ids[0]}", "--json", *why, env=NO_DATABASE),
        run("replay", "--check", str(revealed), env=NO_DATABASE),
    )
    assert GUESTS[0]["ipAddress"] not in masked.text
    assert_one_line(refused, "a replay masks what a bundle has in clear")
    assert clear.code == 0, clear.text


async def test_a_file_that_is_there_already_stays_as_it_is(bundled: Bundled, tmp_path: Path):
    file = tmp_path / "kept.jsonl"
    file.write_text("mine")
    assert_one_line(await run("bundle", bundled.ids[0], "-o", str(file), env=bundled.env), "exists already")
    assert file.read_text() == "mine"


async def test_nothing_is_left_behind_where_no_bundle_can_be_written(bundled: Bundled, tmp_path: Path):
    results = await asyncio.gather(
        run("bundle", "nobody", "-o", str(tmp_path / "a.jsonl"), env=bundled.env),
        run("bundle", "--since", "2090-01-01", "-o", str(tmp_path / "b"), env=bundled.env),
        run("bundle", bundled.ids[0], "-o", str(tmp_path / "none" / "c.jsonl"), env=bundled.env),
        run("bundle", bundled.ids[0], "-o", str(tmp_path / ("x" * 300)), env=bundled.env),
        run("replay", f"{'x' * 300}#1", env=bundled.env),
    )
    refusals = ("no session has the id", "nothing was written", *["cannot be written"] * 2, "no session has the id")
    for result, words in zip(results, refusals, strict=True):
        assert_one_line(result, words)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give session ids, or --since or --until"),
        (("sess_1", "--since", "1h"), "give session ids, or --since or --until"),
        (("--since", "1h", "--reveal", "--reason", "x"), "goes only with session ids"),
        (("sess_1", "--reveal"), "needs --reason"),
    ],
)
async def test_wrong_use_is_refused_in_one_line(arguments: tuple[str, ...], words: str):
    assert_one_line(await run("bundle", *arguments, "-o", "none.jsonl", env=NO_DATABASE), words)


async def test_what_is_no_bundle_is_named_with_its_line(tmp_path: Path):
    file = tmp_path / "other.jsonl"
    file.write_text('{"format":"other"}\n')
    assert_one_line(await run("replay", str(file), env=NO_DATABASE), f"{file}, line 1: this is no bundle")
    assert_one_line(await run("replay", str(tmp_path / "none.jsonl"), env=NO_DATABASE), "none.jsonl cannot be read")


@pytest.mark.parametrize("option", ["--json", "--step"])
async def test_an_impossible_history_is_refused_in_one_line(tmp_path: Path, option: str):
    file = tmp_path / "impossible.jsonl"
    history = stored(SESSION, [has_failed(detail="a value")])
    policies = in_force(Policy())
    file.write_bytes(write_bundle([history], policies=policies, release="1", ledger=SESSION, written_at=START))
    result = await run("replay", str(file), option, env=NO_DATABASE)
    assert_one_line(result, f"{file} cannot be replayed by this release: AssertionError in guestledger.engine.")
    assert "a value" not in result.err
