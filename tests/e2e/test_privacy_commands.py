"""Retention, legal holds and exports as a person uses them."""

import json
import stat
from pathlib import Path

from guestledger.adapters.simulator import Simulator
from tests.e2e import guests
from tests.e2e.command import assert_one_line, environment, run

PERSON = {"subjectId": "person-17"}


async def test_a_policy_can_be_looked_at_before_the_workers_get_it(database_url: str):
    async with Simulator() as simulator:
        env = environment(database_url, simulator)
        refused = guests.guest(1, consent=guests.NO_CONSENT)
        opened = await run("open", "-", env=env, stdin=guests.as_lines([refused]))
        assert opened.out[0]["status"] == "refused"

        kept = await run("retention", env=env)
        assert "until it is erased" in kept.text
        [status] = (await run("retention", "--json", env=env | {"GUESTLEDGER_RETENTION_DAYS": "0"})).out
        assert (status["retentionDays"], status["kept"], status["due"], status["erased"]) == (0, 1, 1, 0)

        worked = await run("worker", "--until-idle", env=env | {"GUESTLEDGER_RETENTION_DAYS": "0"})
        assert "1 ContactErased" in worked.err
        [status] = (await run("retention", "--json", env=env)).out
        assert (status["kept"], status["erased"], status["oldest"]) == (0, 1, None)


async def test_a_hold_is_placed_listed_and_released(database_url: str):
    async with Simulator() as simulator:
        env = environment(database_url, simulator)
        opened = await run("open", "-", env=env, stdin=guests.as_lines([guests.guest(1, **PERSON)]))
        session = opened.out[0]["id"]

        held = await run("hold", "--subject", "person-17", "--reason", "matter 17", "--by", "counsel", env=env)
        assert (held.code, held.err) == (0, "guestledger: 1 sessions are held\n")
        [person, listed] = (await run("hold", "--list", "--json", env=env)).out
        assert (person["of"], person["placedBy"], person["reason"]) == ("person", "counsel", "matter 17")
        assert (listed["of"], listed["id"]) == ("session", session)
        again = await run("hold", "--session", session, "--reason", "matter 18", env=env)
        assert again.code == 1
        assert "is held since" in again.err

        freed = await run(
            "hold", "--subject", "person-17", "--release", "--reason", "closed", "--by", "counsel", env=env
        )
        assert (freed.code, freed.err) == (0, "guestledger: 1 sessions are released\n")
        assert (await run("hold", "--list", "--json", env=env)).out == []
        events = (await run("replay", session, "--json", env=env)).out[0]["frames"]
        assert [frame["event"] for frame in events][-2:] == ["LegalHoldPlaced", "LegalHoldReleased"]
        assert {frame["actor"] for frame in events[-2:]} == {"counsel"}


async def test_a_person_gets_files_that_only_their_owner_can_read(database_url: str, tmp_path: Path):
    async with Simulator() as simulator:
        env = environment(database_url, simulator)
        asked = guests.guest(1, **PERSON)
        await run("open", "-", env=env, stdin=guests.as_lines([asked, guests.guest(2)]))
        data, page = tmp_path / "person.json", tmp_path / "person.html"
        files = ("-o", str(data), "--html", str(page))

        done = await run("export", "--subject", "person-17", "--reason", "request", *files, env=env)

        assert (done.code, done.text, done.err) == (0, "", "guestledger: 1 sessions exported\n")
        assert {stat.S_IMODE(file.stat().st_mode) for file in (data, page)} == {0o600}
        [session] = json.loads(data.read_text())["sessions"]
        assert session["contact"]["ip_address"] == asked["ipAddress"]
        assert asked["userAgent"] in page.read_text()
        assert guests.fingerprint(guests.guest(2)) not in data.read_text() + page.read_text()

        [shown] = (await run("export", "--subject", "person-17", "--reason", "request", env=env)).out
        assert shown["sessions"] == [session]
        again = await run("export", "--subject", "person-17", "--reason", "request", *files, env=env)
        assert_one_line(again, str(data), "exists already")


async def test_wrong_use_of_the_privacy_commands_is_one_line(database_url: str):
    env = environment(database_url)
    assert_one_line(await run("export", "--reason", "request", env=env), "--subject")
    assert_one_line(await run("hold", "--session", "s", env=env), "--reason")
    nobody = await run("export", "--subject", "person-99", "--reason", "request", env=env)
    assert_one_line(nobody, "no contact data is held on this subject")
    assert "person-99" not in nobody.err
    wrong = env | {"GUESTLEDGER_RETENTION_DAYS": "-1"}
    assert_one_line(await run("retention", env=wrong), "GUESTLEDGER_RETENTION_DAYS", "0 to 36525")
