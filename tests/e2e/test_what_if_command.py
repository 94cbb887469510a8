"""`guestledger what-if`, as a person and as a program ask it."""

import json
from pathlib import Path

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests
from tests.e2e.command import assert_one_line, environment, run

POLICY = {"creation": {"max_failures": 1}}


async def test_what_if_shows_the_first_difference_and_where_it_leads(database_url: str, tmp_path: Path):
    asked = [guests.guest(0), guests.guest(1, consent=guests.NO_CONSENT)]
    file = guests.write_file(tmp_path, asked)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(POLICY))
    async with Simulator(SimulatorConfig(server_error_share=1, fault_times=1)) as simulator:
        env = environment(database_url, simulator)
        opened = (await run("open", file, env=env)).out
        failed, refused = (answer["id"] for answer in opened)

        shown = await run("what-if", failed, "--policy", str(policy), env=env)
        told = await run("what-if", failed, "--policy", "-", "--json", env=env, stdin=policy.read_bytes())
        same = await run("what-if", refused, "--policy", str(policy), env=env)
        summed = await run("what-if", "--all", "--since", "1 day ago", "--policy", str(policy), env=env)
        told_all = await run("what-if", "--all", "--policy", str(policy), "--json", env=env)

    results = shown, told, same, summed, told_all
    assert [(result.code, result.err) for result in results] == [(0, "")] * 5
    lines = shown.text.splitlines()
    assert lines[0] == f"session {failed} (all times are UTC)"
    assert any(line.split() == ["events", "CreationFailed", "CreationFailed,", "SessionAbandoned"] for line in lines)
    assert any(line.split() == ["status", "active", "abandoned"] for line in lines)
    assert "the what-if ends there: nothing more is due" in lines
    [answer] = told.out
    assert (answer["identical"], answer["ending"]) == (False, "done")
    assert answer["difference"]["fields"] == [{"path": "event 2", "recorded": None, "simulated": "SessionAbandoned"}]
    assert answer["difference"]["simulated"]["arguments"]["attempt"] == 1
    assert (answer["recorded"]["status"], answer["simulated"]["cause"]) == ("active", "too_many_failures")
    assert [event["event"] for event in answer["events"]][-1] == "SessionAbandoned"
    assert same.text.splitlines()[1] == "no decision differs; it is refused: nothing more is due"
    assert summed.text.splitlines()[0] == "2 sessions: 1 the same, 1 with another decision"
    assert summed.text.splitlines()[1] == "1 with another status, 0 without an answer in the log"
    [every] = told_all.out
    assert (every["sessions"], every["identical"], every["endedOtherwise"], every["unanswered"]) == (2, 1, 1, 0)
    assert {(one["recorded"], one["simulated"]): one["examples"] for one in every["statuses"]} == {
        ("active", "abandoned"): [failed],
        ("refused", "refused"): [refused],
    }
    assert (every["recordedLatency"]["sessions"], every["simulatedLatency"]) == (1, None)
    for result in results:
        assert not guests.personal(asked).search(result.text)


async def test_wrong_use_of_what_if_is_one_line(tmp_path: Path):
    async def refused(text: str, *words: str, arguments: tuple[str, ...] = ("sess_1",)) -> None:
        result = await run("what-if", *arguments, "--policy", "-", env=environment(), stdin=text.encode())
        assert_one_line(result, *words)
        assert not result.text

    await refused("{}", "--all", arguments=())
    await refused("{}", "--all", arguments=("sess_1", "--all"))
    await refused("{}", "--since", "--all", arguments=("sess_1", "--since", "1 day ago"))
    await refused("not json", "--policy", "is not JSON")
    await refused("[" * 20_000, "--policy", "is not JSON")
    await refused('{"creation": {"deadline": 3}}', "--policy", "creation.deadline is no field", "deadline_ms")
    await refused('{"creation": {"deadline_ms": "1h"}}', "--policy", "creation.deadline_ms: Expected `int`")
    await refused('{"creation": {"in_doubt": null}}', "creation.in_doubt must be one of")
    assert_one_line(await run("what-if", "sess_1", env=environment()), "--policy")
    assert_one_line(await run("what-if", "x", "--policy", "/no/such/file", env=environment()), "/no/such/file")
