"""`guestledger why`, as a person and as a program ask it."""

from pathlib import Path
from uuid import uuid4

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests
from tests.e2e.command import assert_one_line, environment, run


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
    assert list(answer) == ["id", "status", "next", "now", "holds", "movesAt", "deadline", "outlook"]
    assert (answer["id"], answer["status"], answer["next"]) == (waiting, "throttled", "AttemptCreation")
    held = answer["holds"][0]
    assert (held["by"], "Retry-After of 600000 ms" in held["reason"]) == ("due", True)
    assert held["until"].endswith("Z")
    assert answer["movesAt"] == answer["holds"][-1]["until"]
    first, *lines = shown.text.splitlines()
    assert first.startswith(f"session {waiting} is throttled, at ")
    assert lines[0].startswith("held by due until ")
    assert any(line.startswith("moves at ") for line in lines)
    assert "guestledger worker" in lines[-1]
    assert over.text.splitlines()[1:] == ["it is refused: nothing more is to be done, ever"]
    for result in (shown, told, over):
        assert not guests.personal(asked).search(result.text + result.err)


async def test_why_of_an_unknown_session_is_one_line(database_url: str):
    assert_one_line(await run("why", str(uuid4()), env=environment(database_url)), "no session has the id")
    assert_one_line(await run("why", env=environment(database_url)), "Missing argument")
