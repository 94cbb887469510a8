"""`guestledger why`, as a person and as a program ask it."""

import re
import shlex
from pathlib import Path
from uuid import uuid4

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests
from tests.e2e.backlog import accept
from tests.e2e.command import assert_one_line, environment, run

WAY = ["lease", "due_time", "settings", "pause", "circuit", "rate", "concurrency", "retry_budget", "deadline"]
"""What a worker looks at on its way to an attempt."""


async def test_why_shows_what_holds_a_session_and_until_when(database_url: str, tmp_path: Path):
    asked = [guests.guest(0), guests.guest(1, consent=guests.NO_CONSENT)]
    file = guests.write_file(tmp_path, asked)
    async with Simulator(SimulatorConfig(throttle_share=1, retry_after_s=600)) as simulator:
        env = environment(database_url, simulator)
        opened = (await run("open", "--no-wait", file, env=env)).out
        waiting, refused = (answer["id"] for answer in opened)

        shown = await run("why", waiting, env=env)
        told = await run("why", waiting, "--json", env=env)
        over = await run("why", refused, env=env)

    assert (shown.code, shown.err, told.code, told.err, over.code) == (0, "", 0, "", 0)
    [answer] = told.out
    assert list(answer)[:5] == ["id", "status", "now", "channelId", "cause"]
    assert (answer["id"], answer["status"], answer["cause"]) == (waiting, "throttled", "throttled")
    assert answer["conditions"] == [{"name": "person", "met": True, "until": None}]
    creation, deadline = answer["steps"]
    assert (creation["step"], deadline["step"]) == ("create_session", "enforce_deadline")
    named = {condition["name"]: condition for condition in creation["conditions"]}
    assert list(named) == WAY
    due = named["due_time"]
    assert (due["met"], due["cause"], due["wait"]["basisMs"]) == (False, "throttled", 600_000)
    assert due["until"].endswith("Z")
    unmet = [condition for condition in creation["conditions"] if not condition["met"]]
    assert answer["movesAt"] == creation["movesAt"] == unmet[-1]["until"]

    first, person, step, *lines = shown.text.splitlines()
    assert first.startswith(f"session {waiting} is throttled, at ")
    assert person == "  yes  person        nobody has to decide"
    assert step == "create_session: the session is requested from the provider"
    assert [line[7:19].strip().replace(" ", "_") for line in lines[: len(WAY)]] == WAY
    assert re.match(r"  NO   due time      not before .+; throttled; waits 6.+: Retry-After of 600 s", lines[1])
    # The pause counts from when the 429 was recorded: on a busy machine it may end last, and a line tells how to end it.
    hint = not named["pause"]["met"]
    assert lines[len(WAY) + hint].startswith("  moves at ")
    assert lines[-1].startswith("deadline ")
    ended, nothing = over.text.splitlines()[1:]
    assert re.fullmatch(r"it is over since .+: the guest's consent is not sufficient: gdprCompliant", ended)
    assert nothing == "nothing more is due, ever"
    for result in (shown, told, over):
        assert not guests.personal(asked).search(result.text + result.err)


async def test_why_tells_how_to_end_a_pause_that_holds_a_session(database_url: str, tmp_path: Path):
    async with Simulator(SimulatorConfig(channel_throttle_times=1, retry_after_s=600)) as simulator:
        env = environment(database_url, simulator)
        await run("open", "--no-wait", guests.write_file(tmp_path, [guests.guest(0)]), env=env)
        [held] = await accept(Settings.from_env(env), [guests.guest(1)])

        shown = await run("why", str(held), env=env)

    [hint] = [line for line in shown.text.splitlines() if "limits --reset" in line]
    ended = await run(*shlex.split(hint.split("`")[1].removeprefix("guestledger ")), env=env)
    assert ended.code == 0, ended.err
    assert "limits --reset" not in (await run("why", str(held), env=env)).text


async def test_why_of_an_unknown_session_is_one_line(database_url: str):
    assert_one_line(await run("why", str(uuid4()), env=environment(database_url)), "no session has the id")
    assert_one_line(await run("why", env=environment(database_url)), "Missing argument")
