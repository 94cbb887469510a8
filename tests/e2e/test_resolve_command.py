"""`guestledger resolve`, as a person uses it for sessions that are parked on an attempt in doubt."""

from pathlib import Path
from uuid import uuid4

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.command import assert_one_line, environment, run

WHY = ("--reason", "looked into CXone", "--by", "ops")
EXPIRY = "2099-05-20T15:22:00Z"
TOKEN = "gt_found_7x2k9m4p"


async def test_parked_sessions_are_listed_retried_abandoned_or_adopted(database_url: str, tmp_path: Path):
    file = guests.write_file(tmp_path, [guests.guest(number) for number in range(4)])
    async with Simulator(SimulatorConfig(drop_share=1)) as simulator:
        env = environment(database_url, simulator, cxone_in_doubt="park")
        opened = await run("open", file, env=env)  # which does not wait for a person
        ids = [answer["id"] for answer in opened.out]
        listed = await run("sessions", "--status", "parked", "--json", env=env)
        idle = await run("worker", "--until-idle", env=env)

        adopt = ("adopt", "--session-id", "sess_a", "--expires-at", EXPIRY, "--token-file", "-")
        retried = await run("resolve", ids[0], "retry", *WHY, env=env)
        given_up = await run("resolve", ids[1], "abandon", *WHY, env=env)
        adopted = await run("resolve", ids[2], *adopt, *WHY, "--json", env=env, stdin=f"{TOKEN}\n".encode())
        twice = await run("resolve", ids[3], "adopt", "--session-id", "sess_a", "--expires-at", EXPIRY, *WHY, env=env)
        again = await run("resolve", ids[1], "retry", *WHY, env=env)
        worked = await run("worker", "--until-idle", env=env)
        shown = await run("replay", "sess_a", "--json", env=env)

    assert (opened.code, {answer["status"] for answer in opened.out}) == (1, {"parked"})
    assert {row["id"] for row in listed.out} == set(ids)
    assert "nothing was due" in idle.err
    assert (retried.code, given_up.code, adopted.code) == (0, 0, 0)
    assert retried.err.startswith(f"guestledger: session {ids[0]} is pending: `guestledger worker`")
    assert adopted.out == [{"id": ids[2], "sessionId": "sess_a", "status": "active"}]
    assert (twice.code, f"session {ids[2]} has that remote session" in twice.err) == (1, True)
    assert (again.code, "its status is abandoned" in again.err) == (1, True)
    assert "1 SessionCreated" in worked.err
    [decided] = [frame for frame in shown.out[0]["frames"] if frame["event"] == "SessionAdopted"]
    assert (decided["actor"], decided["data"]["reason"]) == ("ops", "looked into CXone")
    assert TOKEN not in shown.text + adopted.text + adopted.err
    counts = await raw_log.counts(database_url)
    kinds = ("SessionParked", "RetryDecided", "AbandonmentDecided", "SessionAdopted")
    assert [counts[kind] for kind in kinds] == [4, 1, 1, 1]


async def test_wrong_use_of_resolve_is_one_line_without_the_token(database_url: str, tmp_path: Path):
    env = environment(database_url)
    session, missing = str(uuid4()), str(tmp_path / "missing")
    adopt = ("resolve", session, "adopt", "--session-id", "sess_a", "--expires-at", EXPIRY, *WHY)
    assert_one_line(await run("resolve", session, "retry", env=env), "--reason")
    assert_one_line(await run("resolve", session, "perhaps", *WHY, env=env), "is not one of")
    assert_one_line(await run("resolve", session, "retry", *WHY, env=env), "no session has the id")
    assert_one_line(await run("resolve", session, "adopt", *WHY, env=env), "--session-id and --expires-at")
    assert_one_line(await run("resolve", session, "retry", "--session-id", "x", *WHY, env=env), "go with adopt")
    assert_one_line(await run(*adopt, "--token-file", missing, env=env), "cannot be read")
    not_ascii = await run(*adopt, "--token-file", "-", env=env, stdin=f"{TOKEN}é".encode())
    assert_one_line(not_ascii, "not ASCII")
    assert TOKEN not in not_ascii.err
    wrong = environment(database_url, cxone_in_doubt="perhaps")
    assert_one_line(await run("sessions", env=wrong), "CXONE_IN_DOUBT", "retry_with_key")
