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
    assert list(answer) == ["id", "status", "now", "steps", "blockers", "movesAt", "deadline", "erasedAt"]
    assert (answer["id"], answer["status"], answer["blockers"]) == (waiting, "throttled", [])
    creation, deadline = answer["steps"]
    assert (creation["step"], deadline["step"]) == ("create_session", "enforce_deadline")
    blocker = creation["blockers"][0]
    assert (blocker["by"], blocker["cause"], blocker["wait"]["basisMs"]) == ("not_due", "throttled", 600_000)
    assert blocker["until"].endswith("Z")
    assert answer["movesAt"] == creation["movesAt"] == creation["blockers"][-1]["until"]
    first, step, *lines = shown.text.splitlines()
    assert first.startswith(f"session {waiting} is throttled, at ")
    assert step == "create_session: the session is requested from the provider"
    assert "throttled; waits 6" in lines[0]
    assert "Retry-After of 600 s" in lines[0]
    assert any(line.startswith("  moves at ") for line in lines)
    assert lines[-1].startswith("deadline ")
    assert over.text.splitlines()[1:] == ["nothing more is due, ever"]
    for result in (shown, told, over):
        assert not guests.personal(asked).search(result.text + result.err)


async def test_why_of_an_unknown_session_is_one_line(database_url: str):
    assert_one_line(await run("why", str(uuid4()), env=environment(database_url)), "no session has the id")
    assert_one_line(await run("why", env=environment(database_url)), "Missing argument")
