"""`guestledger why`, as a person and as a program ask it."""

import re
from pathlib import Path
from uuid import uuid4

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests
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
    assert lines[len(WAY)].startswith("  moves at ")
    assert lines[-1].startswith("deadline ")
    ended, nothing = over.text.splitlines()[1:]
    assert re.fullmatch(r"it is over since .+: the guest's consent is not sufficient: gdprCompliant", ended)
    assert nothing == "nothing more is due, ever"
    for result in (shown, told, over):
        assert not guests.personal(asked).search(result.text + result.err)


async def test_why_of_an_unknown_session_is_one_line(database_url: str):
    assert_one_line(await run("why", str(uuid4()), env=environment(database_url)), "no session has the id")
    assert_one_line(await run("why", env=environment(database_url)), "Missing argument")
