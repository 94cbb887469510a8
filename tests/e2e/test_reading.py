"""The commands that show: `sessions`, `metrics`, `audit`, `replay`, over one ledger with a session of every kind."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio
from msgspec.structs import replace

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.delivery import DeliveryPolicy
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.request import parse_request
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.retry import RetryPolicy
from tests import postgres
from tests.e2e import guests, raw_log
from tests.e2e.command import Result, assert_one_line, environment, run
from tests.limits import BRISK

# A pause of two hours is longer than the deadline.
SOON = Policy(
    creation=RetryPolicy(base_ms=1),
    webhook=DeliveryPolicy(waits_ms=(1,)),
    limiter=replace(BRISK, max_pause_ms=7_200_000),
)
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Shown(NamedTuple):
    """A ledger to look at: how to reach it, and its sessions by their status."""

    env: dict[str, str]
    sessions: dict[str, Session]

    async def run(self, *arguments: str) -> Result:
        return await run(*arguments, env=self.env)


# What CXone does while the session is opened that is to end so.
KNOBS = {
    "active": SimulatorConfig(throttle_share=1, retry_after_s=0, session_lifetime_s=2 * 86_400),
    "expired": SimulatorConfig(session_lifetime_s=0),
    "refused": SimulatorConfig(),
    "rejected": SimulatorConfig(inactive_channels=frozenset({"ch_rejected"})),
    "abandoned": SimulatorConfig(throttle_share=1, retry_after="huge"),
    "throttled": SimulatorConfig(throttle_share=1, retry_after_s=3_000),
}
REQUESTS = {
    status: guests.guest(number, channelId=f"ch_{status}", subjectId=f"subject-{number}")
    for number, status in enumerate(KNOBS)
}
REQUESTS["refused"]["consent"] = guests.NO_CONSENT


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shown(runtime_server: str, migrated_template: str) -> AsyncIterator[Shown]:
    async with postgres.new_database(runtime_server, migrated_template) as database_url, Simulator() as simulator:
        settings = Settings.from_env(environment(database_url, simulator))
        sessions = {}
        async with connect(settings, policy=SOON, scheduler=False) as ledger:
            for status, config in KNOBS.items():
                simulator.config = replace(config, webhook_status=503 if status == "expired" else 200)
                await raw_log.query(
                    database_url, "DELETE FROM limits"
                )  # a limiter of one case must not affect the next
                session = await ledger.open_session(parse_request(guests.as_lines([REQUESTS[status]])))
                if status != "throttled":
                    await ledger.scheduler.run_until_idle()
                sessions[status] = await ledger.session(session.id)
        assert [session.status for session in sessions.values()] == list(KNOBS)
        # These commands need no CXone. That a webhook is set tells a replay that one was to be sent.
        yield Shown(environment(database_url, webhook_url=simulator.webhook_url), sessions)


async def test_sessions_are_listed_newest_first(shown: Shown):
    listed = await shown.run("sessions", "--json")

    assert (listed.code, listed.err) == (0, "")
    assert [row["status"] for row in listed.out] == list(KNOBS)[::-1]
    for row in listed.out:
        session = shown.sessions[row["status"]]
        assert row["id"] == str(session.id)
        assert row["sessionId"] == session.session_id
        assert row["channelId"] == f"ch_{row['status']}"
        assert (row["cause"], row["detail"]) == (session.cause, session.detail)
        assert row["latencyMs"] == session.latency_ms


async def test_sessions_are_filtered_by_channel_and_statuses(shown: Shown):
    of_status, of_both = await asyncio.gather(
        shown.run("sessions", "--json", "--status", "refused", "--status", "throttled"),
        shown.run("sessions", "--json", "--status", "refused", "--status", "throttled", "--channel", "ch_refused"),
    )

    assert [row["status"] for row in of_status.out] == ["throttled", "refused"]
    assert of_both.out == of_status.out[1:]


async def test_metrics_count_only_created_sessions_as_success(shown: Shown):
    everything, one_channel = await asyncio.gather(
        shown.run("metrics", "--json"),
        shown.run("metrics", "--json", "--channel", "ch_active", "--until", "2100-01-01T00:00:00Z"),
    )

    [metrics] = everything.out
    assert metrics["outcomes"] == {"created": 2, "refused": 1, "rejected": 1, "abandoned": 1, "withdrawn": 0}
    assert (metrics["totalTracked"], metrics["successRate"], metrics["pending"]) == (5, 0.4, 1)
    [of_active] = one_channel.out
    latency = shown.sessions["active"].latency_ms
    assert (of_active["totalTracked"], of_active["successRate"], of_active["averageLatency"]) == (1, 1.0, latency)
    assert of_active["latency"] == {"p50": latency, "p95": latency, "p99": latency}
    assert of_active["counts"]["throttled"] == 1


async def test_audit_has_an_entry_in_contract_form_for_every_session(shown: Shown):
    audit = await shown.run("audit", "--json", "--reveal", "--reason", "test", "--by", "tests")

    assert (audit.code, audit.err) == (0, "")
    entries = {entry["channelId"].removeprefix("ch_"): entry for entry in audit.out}
    assert len(audit.out) == len(entries) == len(KNOBS)
    assert {status: entry["complianceStatus"] for status, entry in entries.items()} == {
        "active": "verified",
        "expired": "verified",
        "refused": "refused",
        "rejected": "rejected",
        "abandoned": "abandoned",
        "throttled": "pending",
    }
    for status, entry in entries.items():
        assert entry["ipAddress"] == REQUESTS[status]["ipAddress"]
        assert entry["visitorFingerprint"] == guests.fingerprint(REQUESTS[status])
        assert entry["consentRecorded"] is entry["gdprCompliant"] is (status != "refused")
    active = shown.sessions["active"]
    assert dict(list(entries["active"].items())[:12]) == {
        "auditType": "guest_session_initialization",
        "id": str(active.id),
        "timestamp": entries["active"]["timestamp"],
        "sessionId": active.session_id,
        "channelId": "ch_active",
        "visitorFingerprint": guests.fingerprint(REQUESTS["active"]),
        "ipAddress": REQUESTS["active"]["ipAddress"],
        "consentRecorded": True,
        "gdprCompliant": True,
        "tokenExpiry": f"{active.expires_at:%Y-%m-%dT%H:%M:%SZ}",
        "initializationLatencyMs": active.latency_ms,
        "complianceStatus": "verified",
    }


async def test_ids_of_the_audit_log_lead_to_refused_and_rejected_guests(shown: Shown):
    entries = {entry["complianceStatus"]: entry for entry in (await shown.run("audit", "--json")).out}
    for status in ("refused", "rejected"):
        assert entries[status]["sessionId"] is None
        replayed = await shown.run("replay", entries[status]["id"], "--json")
        assert (replayed.code, replayed.out[0]["status"]) == (0, status)


async def test_sessions_with_an_attempt_in_doubt_are_listed_alone(shown: Shown):
    none, row, table = await asyncio.gather(
        shown.run("sessions", "--in-doubt", "--json"), shown.run("sessions", "--json"), shown.run("sessions")
    )
    assert (none.code, none.out) == (0, [])
    assert row.out[0]["inDoubt"] == []
    assert "in doubt" in table.text


async def test_audit_entries_are_filtered(shown: Shown):
    entries = (await shown.run("audit", "--json")).out
    times = [entry["timestamp"] for entry in entries]
    expired = shown.sessions["expired"]
    assert times == sorted(times, reverse=True)

    by_status, by_both, by_session, by_time = await asyncio.gather(
        shown.run("audit", "--json", "--status", "verified"),
        shown.run("audit", "--json", "--status", "verified", "--channel", "ch_active"),
        shown.run("audit", "--json", "--session", expired.session_id),
        shown.run("audit", "--json", "--since", times[3], "--until", times[1]),
    )

    assert [entry["channelId"] for entry in by_status.out] == ["ch_expired", "ch_active"]
    assert [entry["channelId"] for entry in by_both.out] == ["ch_active"]
    assert [entry["channelId"] for entry in by_session.out] == ["ch_expired"]
    assert by_time.out == entries[2:4]


async def test_replay_shows_each_event_with_its_state_and_next_step(shown: Shown):
    replayed = await shown.run("replay", str(shown.sessions["active"].id), "--json")

    assert (replayed.code, replayed.err) == (0, "")
    [replay] = replayed.out
    told = [
        (frame["event"], frame["state"]["status"], [due["step"] for due in frame["due"]]) for frame in replay["frames"]
    ]
    assert told == [
        ("ConsentRecorded", "pending", ["validate_channel", "enforce_deadline"]),
        ("ChannelValidated", "pending", ["create_session", "enforce_deadline"]),
        ("CreationAttempted", "attempting", ["settle_attempt"]),
        ("CreationThrottled", "throttled", ["create_session", "enforce_deadline"]),
        ("CreationAttempted", "attempting", ["settle_attempt"]),
        ("SessionCreated", "active", ["deliver_webhook", "expire_token"]),
        ("WebhookSynced", "active", ["expire_token"]),
    ]
    assert [frame["version"] for frame in replay["frames"]] == list(range(1, 8))
    assert (replay["status"], replay["version"], replay["sessionId"]) == (
        "active",
        7,
        shown.sessions["active"].session_id,
    )


async def test_replay_stops_at_a_version_or_a_time(shown: Shown):
    session = shown.sessions["active"]
    [whole] = (await shown.run("replay", session.session_id, "--json")).out
    moment = whole["frames"][3]["recordedAt"]

    at_version, at_time, too_early = await asyncio.gather(
        shown.run("replay", str(session.id), "--json", "--at", "4"),
        shown.run("replay", str(session.id), "--json", "--at", moment),
        shown.run("replay", str(session.id), "--at", "2001-01-01T00:00:00Z"),
    )

    until_then = whole | {"status": "throttled", "version": 4, "sessionId": None, "frames": whole["frames"][:4]}
    assert whole["id"] == str(session.id)
    assert at_version.out == at_time.out == [until_then]
    assert_one_line(too_early, str(session.id))
    assert not too_early.text


@pytest.mark.parametrize("unknown", ["sess_nobody", ""])
async def test_unknown_session_is_one_line(unknown, shown: Shown):
    result = await shown.run("replay", unknown)

    assert_one_line(result, repr(unknown), "guestledger sessions")
    assert not result.text


async def test_tables_fit_80_columns_without_breaking_ids_and_times(shown: Shown):
    env = shown.env | {"COLUMNS": "80", "TTY_COMPATIBLE": "1"}
    one = str(shown.sessions["active"].id)

    sessions, audit, replay = await asyncio.gather(
        *(run(*look, env=env) for look in [("sessions",), ("audit",), ("replay", one)])
    )

    for table in (sessions, audit, replay):
        assert (table.code, table.err) == (0, "")
        lines = ESCAPES.sub("", table.text).splitlines()
        assert max(map(len, lines)) <= 80
    for table in (sessions, audit):
        assert all(str(session.id) in table.text for session in shown.sessions.values())
    [history] = (await shown.run("replay", one, "--json")).out
    expiry = f"{shown.sessions['active'].expires_at:%Y-%m-%d %H:%M:%S}.000"
    for whole in (*expiry.split(), *(frame["event"] for frame in history["frames"])):
        assert re.search(rf"(?<!\S){whole}(?!\S)", ESCAPES.sub("", replay.text))


async def test_replay_and_tables_show_no_personal_data(shown: Shown):
    session = shown.sessions["active"]

    results = await asyncio.gather(
        shown.run("replay", session.session_id, "--json"),
        shown.run("sessions"),
        shown.run("audit"),
    )

    text = "".join(result.text for result in results)
    assert text.count(session.session_id) > 4
    assert session.guest_token not in text
    assert not guests.personal(REQUESTS.values()).search(text)


async def test_empty_ledger_is_shown_as_empty(database_url: str):
    env = environment(database_url)

    sessions, metrics, table = await asyncio.gather(
        run("sessions", "--json", env=env),
        run("metrics", "--json", env=env),
        run("audit", env=env),
    )

    assert sessions == (0, "", "")
    assert (table.code, table.err) == (0, "")
    [empty] = metrics.out
    assert empty["counts"].pop("accepted") == 0
    assert empty == {
        "successRate": 0.0,
        "averageLatency": None,
        "totalTracked": 0,
        "latency": None,
        "pending": 0,
        "inDoubt": 0,
        "possibleDuplicates": 0,
        "outcomes": dict.fromkeys(empty["outcomes"], 0),
        "counts": dict.fromkeys(empty["counts"], 0),
    }
