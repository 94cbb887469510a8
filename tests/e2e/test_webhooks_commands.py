"""`guestledger webhooks list` and `redeliver`, as a program and as a person meet them."""

from pathlib import Path
from uuid import uuid4

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.command import assert_one_line, environment, run


async def test_dead_letters_are_listed_and_redelivered(database_url: str, tmp_path: Path):
    file = guests.write_file(tmp_path, [guests.guest(number) for number in range(3)])
    async with Simulator(SimulatorConfig(webhook_status=410)) as simulator:
        env = environment(database_url, simulator)
        opened = {answer["id"]: answer["sessionId"] for answer in (await run("open", file, env=env)).out}
        await run("worker", "--until-idle", env=env)

        listed = await run("webhooks", "list", "--json", env=env)
        shown = await run("webhooks", "list", env=env)
        simulator.config = SimulatorConfig()
        by_name = [listed.out[0]["id"], opened[listed.out[1]["id"]]]
        why = ("--reason", "the receiver is up again", "--by", "ops")
        named = await run("webhooks", "redeliver", *by_name, *why, "--json", env=env)
        again = await run("webhooks", "redeliver", by_name[0], env=env)
        the_rest = await run("webhooks", "redeliver", "--all", env=env)
        worked = await run("worker", "--until-idle", env=env)
        left = await run("webhooks", "list", "--json", env=env)
        replayed = await run("replay", by_name[0], "--json", env=env)

    assert {letter["id"] for letter in listed.out} == set(opened)
    assert {(letter["status"], letter["attempts"]) for letter in listed.out} == {(410, 1)}
    assert all(stream_id in shown.text for stream_id in opened)
    assert named.code == 0
    assert [asked["sessionId"] for asked in named.out] == [opened[letter["id"]] for letter in listed.out[:2]]
    assert again.code == 1
    assert "is still being delivered" in again.err
    assert (the_rest.code, the_rest.text) == (0, "")
    assert the_rest.err == "guestledger: 1 notices are due again: `guestledger worker` sends them\n"
    assert "3 WebhookSynced" in worked.err
    assert left.out == []
    [asked] = [frame for frame in replayed.out[0]["frames"] if frame["event"] == "WebhookRedeliveryRequested"]
    assert (asked["data"]["requested_by"], asked["data"]["reason"]) == ("ops", "the receiver is up again")
    assert len(simulator.webhooks) == 6
    assert (await raw_log.counts(database_url))["WebhookRedeliveryRequested"] == 3


async def test_unknown_session_does_not_stop_other_redeliveries(database_url: str, tmp_path: Path):
    file = guests.write_file(tmp_path, [guests.guest(number) for number in range(2)])
    async with Simulator(SimulatorConfig(webhook_status=410)) as simulator:
        env = environment(database_url, simulator)
        first, last = [answer["id"] for answer in (await run("open", file, env=env)).out]
        await run("worker", "--until-idle", env=env)

        asked = await run("webhooks", "redeliver", first, "sess_nobody", str(uuid4()), last, "--json", env=env)

    assert asked.code == 1
    assert [answer["id"] for answer in asked.out] == [first, last]
    assert [line.partition(":")[2][:24] for line in asked.err.splitlines()] == [" no session has the id '"] * 2


async def test_wrong_use_is_one_line(database_url: str):
    async with Simulator() as simulator:
        env = environment(database_url, simulator)
        assert_one_line(await run("webhooks", "redeliver", env=env), "name sessions, or give --all")
        assert_one_line(await run("webhooks", "redeliver", "--all", str(uuid4()), env=env), "--all")
        assert_one_line(
            await run("webhooks", "redeliver", "--all", env=env | {"GUESTLEDGER_WEBHOOK_URL": ""}), "WEBHOOK_URL"
        )
        wrong = env | {"GUESTLEDGER_WEBHOOK_ALLOW_PRIVATE": "perhaps"}
        assert_one_line(await run("webhooks", "list", env=wrong), "GUESTLEDGER_WEBHOOK_ALLOW_PRIVATE", "1 or 0")
