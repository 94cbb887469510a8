"""`guestledger consent` and `withdraw`, as an auditor and a privacy desk use them."""

import json
from pathlib import Path
from uuid import uuid4

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests
from tests.e2e.command import assert_one_line, environment, run

TERMS = """
version = "2024-05"
consent_type = "explicit: a box that the guest ticks"
collection_method = "web form"
validity_duration = "until withdrawn"
jurisdiction = "IE"
storage_locations = ["IE"]
withdrawal_method = "https://example.com/withdraw"

[[controllers]]
id = "example"
name = "Example Ltd"
address = "1 Example Street, Dublin, Ireland"
contact = "privacy@example.com"
type = "controller"

[[purposes]]
flag = "dataProcessing"
purpose = "To answer you in the chat"
lawful_basis = "consent (GDPR article 6(1)(a))"
pii = ["IP address", "browser"]
retention_period = "30 days after the chat"
recipients = []

[[notices]]
id = "privacy-1"
language = "en"
sha256 = "abababababababababababababababababababababababababababababababab"
"""
CONSENT = {**guests.CONSENT, "marketing": True, "notice": "privacy-1"}


async def test_a_record_is_shown_and_the_terms_are_checked(database_url: str, tmp_path: Path):
    terms = tmp_path / "consent.toml"
    terms.write_text(TERMS)
    file = guests.write_file(tmp_path, [guests.guest(1, consent=CONSENT, subjectId="person-1")])
    async with Simulator() as simulator:
        env = environment(database_url, simulator, consent_terms=str(terms))
        [opened] = (await run("open", file, env=env)).out
        shown = await run("consent", opened["id"], env=env)
        record = await run("consent", opened["sessionId"], "--json", env=env)
        checked = await run("consent", "--check", env=env)
        terms.write_text(TERMS.replace('jurisdiction = "IE"\n', ""))
        short = await run("consent", "--check", env=env)
        short_json = await run("consent", "--check", "--json", env=env)
        none = await run("consent", "--check", env=environment(database_url))
        terms.write_text(TERMS.replace("jurisdiction", "juristiction"))
        wrong = await run("sessions", env=env)

    [found] = record.out
    assert (found["schema_version"], found["record_version"]) == ("ISO/IEC TS 27560:2023", 1)
    assert (found["record_id"], found["state"], found["terms_version"]) == (opened["id"], "given", "2024-05")
    assert found["pii_processing"]["language"] == "en"
    assert found["pii_processing"]["privacy_notice"]["sha256"] == "ab" * 32
    [processing, marketing] = found["pii_processing"]["purposes"]
    assert processing["recipient_third_parties"] == []
    assert (marketing["flag"], marketing["state"], marketing["purpose"]) == ("marketing", "given", "not stated")
    assert found["not_stated"] == ["purposes (marketing)"]
    assert "person-1" not in record.text + shown.text
    assert shown.code == 0
    assert f"session {opened['id']}: consent given" in shown.text
    assert "purpose: To answer you in the chat" in shown.text
    assert "mandatory, but not stated: purposes (marketing)" in shown.text
    assert (checked.code, checked.text) == (0, "")
    assert (short.code, short.text) == (1, "not stated: jurisdiction\n")
    assert (short_json.code, short_json.out) == (1, [{"version": "2024-05", "notStated": ["jurisdiction"]}])
    assert (none.code, none.text.splitlines()[0]) == (1, "not stated: controllers")
    assert_one_line(wrong, "GUESTLEDGER_CONSENT_TERMS", "juristiction")


async def test_sessions_are_withdrawn_once_and_the_second_time_says_so(database_url: str, tmp_path: Path):
    requests = [guests.guest(number, consent=CONSENT, subjectId="person-1") for number in range(3)]
    file = guests.write_file(tmp_path, [*requests, guests.guest(9, consent=guests.NO_CONSENT)])
    async with Simulator(SimulatorConfig()) as simulator:
        env = environment(database_url, simulator)
        ids = [answer["id"] for answer in (await run("open", file, env=env)).out]
        marketing = await run("withdraw", ids[0], "--marketing", "--by", "desk", env=env)
        marketing_again = await run("withdraw", ids[0], "--marketing", env=env)
        first = await run("withdraw", ids[0], "--by", "desk", "--reason", "by phone", env=env)
        again = await run("withdraw", ids[0], env=env)
        refused = await run("withdraw", ids[3], env=env)
        rest = await run("withdraw", "--subject", "person-1", "--json", env=env)
        nobody = await run("withdraw", "--subject", "person-2", env=env)
        worked = await run("worker", "--until-idle", env=env)
        record = await run("consent", ids[0], "--json", env=env)
        listed = await run("sessions", "--status", "withdrawn", "--json", env=env)
        audited = await run("audit", "--status", "withdrawn", "--json", env=env)
        metrics = await run("metrics", "--json", env=env)
        notices = [json.loads(sent.body)["event"] for sent in simulator.webhooks]

    assert (marketing.code, "the session stays active" in marketing.err) == (0, True)
    assert (marketing_again.code, "no consent to marketing, or it was withdrawn" in marketing_again.err) == (0, True)
    assert (first.code, "`guestledger worker` sends the webhook notice" in first.err) == (0, True)
    assert (again.code, "withdrawn before: nothing is recorded" in again.err) == (0, True)
    assert (refused.code, "there is none to withdraw" in refused.err) == (0, True)
    assert [row["recorded"] for row in rest.out] == [False, True, True]
    assert {row["status"] for row in rest.out} == {"withdrawn"}
    assert (nobody.code, "no session of this person" in nobody.err) == (1, True)
    assert "person-2" not in nobody.err
    assert "3 WebhookSynced" in worked.err
    assert sorted(notices) == ["consent_withdrawn"] * 3 + ["session_started"] * 3
    events = record.out[0]["events"]
    assert [event["event_state"] for event in events] == ["given", "withdrawn", "withdrawn"]
    assert (events[2]["entity_id"], events[2]["reason"], events[2]["recorded_by"]) == ("desk", "by phone", "desk")
    assert {row["id"] for row in listed.out} == set(ids[:3])
    assert {entry["id"] for entry in audited.out} == set(ids[:3])
    assert metrics.out[0]["outcomes"] == {"created": 3, "refused": 1, "rejected": 0, "abandoned": 0, "withdrawn": 3}


async def test_wrong_use_of_consent_and_withdraw_is_one_line(database_url: str):
    env, session = environment(database_url), str(uuid4())
    assert_one_line(await run("consent", env=env), "name a session, or give --check")
    assert_one_line(await run("consent", session, "--check", env=env), "name a session, or give --check")
    assert_one_line(await run("consent", session, env=env), "no session has the id")
    assert_one_line(await run("withdraw", env=env), "name a session, or give --subject")
    assert_one_line(await run("withdraw", session, "--subject", "x", env=env), "name a session, or give --subject")
    assert_one_line(await run("withdraw", session, env=env), "no session has the id")
    assert_one_line(await run("withdraw", session, "--by", "a\nb", env=env), "requestedBy")
    missing = environment(database_url, consent_terms="/nowhere/consent.toml")
    assert_one_line(await run("consent", "--check", env=missing), "/nowhere/consent.toml cannot be read")
