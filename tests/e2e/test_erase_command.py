"""`guestledger erase`: certificates, the journal, and what a restored backup needs."""

from pathlib import Path

from guestledger.adapters.simulator import Simulator
from tests import postgres
from tests.backups import Backup
from tests.e2e import guests
from tests.e2e.command import assert_one_line, environment, run

WHY = ("--reason", "asked by mail", "--by", "ops-jane")


async def test_a_subject_and_a_session_are_erased_and_their_certificates_printed_again(
    database_url: str, tmp_path: Path
) -> None:
    people = [guests.guest(0, subjectId="anna"), guests.guest(1, subjectId="anna"), guests.guest(2)]
    async with Simulator() as simulator:
        env = environment(database_url, simulator, webhook_url="")
        opened = await run("open", guests.write_file(tmp_path, people), env=env)
        of_subject = await run("erase", "--subject", "anna", *WHY, env=env)
        of_session = await run("erase", "--session", opened.out[2]["sessionId"], *WHY, env=env)
        again = await run("erase", "--subject", "anna", *WHY, env=env)
        nobody = await run("erase", "--subject", "bert", *WHY, env=env)
        shown = await run("erase", "--certificate", of_subject.out[0]["id"], env=env)
        unfinished = await run("erase", "--unfinished", env=env)
        replayed = await run("replay", opened.out[0]["id"], env=env)
        why = await run("why", opened.out[0]["id"], env=env)
        audited = await run("audit", "--session", opened.out[0]["id"], "--json", env=env)
        listed = await run("sessions", "--json", env=env)

    assert (of_subject.code, of_session.code, again.code, shown.code) == (0, 0, 0, 0)
    [certificate] = of_subject.out
    assert (certificate["sessions"], certificate["rows"], certificate["keys"]) == (2, 4, 2)
    assert [sorted(event) for event in certificate["events"]] == [["leafHash", "position", "session"]] * 2
    assert (certificate["reason"], certificate["requestedBy"]) == ("asked by mail", "ops-jane")
    assert of_subject.err == "guestledger: erasures: 1, sessions: 2, sealed rows: 4, keys: 2\n"
    assert of_session.out[0]["session"] == opened.out[2]["id"]
    assert again.out == shown.out == of_subject.out
    assert (nobody.code, nobody.text, nobody.err.count("\n"), "bert" in nobody.err) == (1, "", 1, False)
    assert (unfinished.out, unfinished.err) == ([], "guestledger: nothing was left to erase\n")
    assert "GuestErased" in replayed.text
    assert "the guest's personal data was erased at" in why.text
    assert audited.out[0]["erasedAt"]
    assert all(row["contactErasedAt"] for row in listed.out)
    assert "anna" not in of_subject.text + of_subject.err


async def test_a_restored_backup_is_refused_in_one_line_until_it_is_replayed(database_url: str, tmp_path: Path) -> None:
    journal = str(tmp_path / "erasures.jsonl")
    async with Simulator() as simulator:
        env = environment(database_url, simulator, webhook_url="", erasure_journal=journal)
        file = guests.write_file(tmp_path, [guests.guest(0, subjectId="anna")])
        assert (await run("open", file, env=env)).code == 0
        async with Backup(database_url) as backup:
            erased = await run("erase", "--subject", "anna", *WHY, env=env)
            await backup.restore()
            for command in (("open", file), ("worker", "--until-idle"), ("sessions",), ("db", "restored")):
                refused = await run(*command, env=env)
                assert_one_line(
                    refused, "lacks 1 of the erasures in the journal", f"`guestledger erase --replay {journal}`"
                )
            replayed = await run("erase", "--replay", journal, env=env)
            served = await run("sessions", "--json", env=env)

    assert (replayed.code, replayed.out[0]["id"]) == (0, erased.out[0]["id"])
    assert [bool(row["contactErasedAt"]) for row in served.out] == [True]


async def test_the_journal_can_be_named_on_the_command_line(database_url: str, tmp_path: Path) -> None:
    journal = tmp_path / "erasures.jsonl"
    async with Simulator() as simulator:
        env = environment(database_url, simulator, webhook_url="")
        await run("open", guests.write_file(tmp_path, [guests.guest(0, subjectId="anna")]), env=env)
        erased = await run("erase", "--subject", "anna", *WHY, "--journal", str(journal), env=env)
    assert erased.out[0]["id"] in journal.read_text()


async def test_an_auditor_prints_a_certificate_and_erases_nothing(database_url: str, tmp_path: Path) -> None:
    async with Simulator() as simulator:
        env = environment(database_url, simulator, webhook_url="")
        opened = await run("open", guests.write_file(tmp_path, [guests.guest(0), guests.guest(1)]), env=env)
        erased = await run("erase", "--session", opened.out[0]["id"], *WHY, env=env)
        async with postgres.new_login(postgres.as_administrator(database_url), "IN ROLE guestledger_auditor") as url:
            env = environment(url)
            shown = await run("erase", "--certificate", erased.out[0]["id"], env=env)
            refused = await run("erase", "--session", opened.out[1]["id"], *WHY, env=env)
    assert shown.out == erased.out
    assert_one_line(refused, "may not do this")


async def test_wrong_use_of_erase_is_one_line(database_url: str, tmp_path: Path) -> None:
    env = environment(database_url)
    broken = tmp_path / "broken"
    broken.write_text("no erasure\n")
    assert_one_line(await run("erase", env=env), "give one of --subject")
    assert_one_line(await run("erase", "--subject", "a", "--session", "b", *WHY, env=env), "give one of --subject")
    assert_one_line(await run("erase", "--subject", "a", env=env), "--reason")
    assert_one_line(await run("erase", "--session", "b", *WHY, env=env), "no session has the id")
    assert_one_line(await run("erase", "--certificate", "c", env=env), "is not the id of an erasure")
    missing = "018f96c2-7a60-7000-8000-0000000000e1"
    assert_one_line(await run("erase", "--certificate", missing, env=env), "no erasure has the id")
    assert_one_line(await run("erase", "--replay", str(broken), env=env), "line 1 is not an erasure")
    assert_one_line(await run("erase", "--replay", str(tmp_path / "none"), env=env), "does not exist")
    nowhere = ("--journal", str(tmp_path / "no" / "where"))
    assert_one_line(await run("erase", "--subject", "a", *WHY, *nowhere, env=env), "cannot be written")
