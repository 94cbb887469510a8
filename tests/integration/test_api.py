"""The HTTP API, over both adapters: what each route answers."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from guestledger.adapters.api.handlers import health
from guestledger.adapters.forms.frames import frame_form
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.events import PersonalDataRevealed
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt
from guestledger.engine.ports.access_keys import Role
from guestledger.engine.projections.audit import CONTRACT_FIELDS
from tests.api import ADAPTERS, GUEST, Api, api_of
from tests.integration.conftest import NewLedger

PERSON = {**GUEST, "subjectId": "crm-1001", "idempotencyKey": "order-17"}


@pytest.fixture(params=ADAPTERS)
async def api(request: pytest.FixtureRequest, ledger: Ledger) -> AsyncIterator[Api]:
    async with api_of(ledger, request.param) as running:
        yield running


async def opened(api: Api, guest: Any = GUEST) -> str:
    reply = await api.post("/v1/sessions", guest)
    assert reply.status == 201, reply
    return str(reply.json["id"])


async def test_a_session_is_opened_and_read(api: Api, ledger: Ledger) -> None:
    reply = await api.post("/v1/sessions", GUEST)

    assert (reply.status, reply.json["status"], reply.json["token"]) == (201, "active", None)
    assert reply.headers["Location"] == f"/v1/sessions/{reply.json['id']}"
    found = await api.get(reply.headers["Location"])
    assert (found.status, found.json["sessionId"]) == (200, reply.json["sessionId"])
    assert found.headers["ETag"] == f'"{found.json["version"]}"'
    assert found.json["guest"]["ipAddress"] == "•••"
    by_provider = await api.get(f"/v1/sessions/{reply.json['sessionId']}")
    assert by_provider.json == found.json


async def test_without_waiting_a_session_is_only_accepted(api: Api) -> None:
    reply = await api.post("/v1/sessions?wait=false", GUEST)
    assert (reply.status, reply.json["status"]) == (202, "pending")


async def test_the_token_is_given_only_when_it_is_asked_for(api: Api, simulator: Simulator) -> None:
    reply = await api.post("/v1/sessions?token=true", GUEST)
    token = reply.json["token"]
    assert token
    again = await api.post(f"/v1/sessions/{reply.json['id']}/token")
    assert again.json["token"] == token
    for path in ("", "/history", "/state"):
        assert token not in (await api.get(f"/v1/sessions/{reply.json['id']}{path}")).body.decode()


async def test_a_refused_consent_is_a_session_too(api: Api) -> None:
    reply = await api.post("/v1/sessions", {**GUEST, "consent": {"dataProcessing": True}})
    assert (reply.status, reply.json["status"], reply.json["cause"]) == (201, "refused", "consent_refused")


@pytest.mark.parametrize("key", ["order-17", '"order-17"'])
async def test_the_same_idempotency_key_returns_the_same_session(api: Api, key: str) -> None:
    first = await api.post("/v1/sessions", GUEST, headers={"Idempotency-Key": key})
    again = await api.post("/v1/sessions", GUEST, headers={"Idempotency-Key": "order-17"})
    assert again.json["id"] == first.json["id"]
    other = await api.post("/v1/sessions", {**GUEST, "channelId": "ch_x"}, headers={"Idempotency-Key": key})
    assert (other.status, other.json["code"]) == (422, "idempotency-conflict")
    assert (other.json["fields"], other.json["session"]) == (["channelId"], first.json["id"])


async def test_the_idempotency_key_of_the_header_is_that_of_the_body(api: Api) -> None:
    key = "bestellung-ö"
    first = await api.post("/v1/sessions", {**GUEST, "idempotencyKey": key})
    again = await api.post("/v1/sessions", GUEST, headers={"Idempotency-Key": key})
    assert again.json["id"] == first.json["id"]


async def test_two_different_idempotency_keys_are_refused(api: Api) -> None:
    reply = await api.post("/v1/sessions", PERSON, headers={"Idempotency-Key": "order-18"})
    assert (reply.status, reply.json["field"]) == (422, "Idempotency-Key")


async def test_an_unchanged_session_is_not_sent_again(api: Api) -> None:
    path = f"/v1/sessions/{await opened(api)}"
    for suffix in ("", "/history", "/state", "/state?at=1"):
        etag = (await api.get(path + suffix)).headers["ETag"]
        same = await api.get(path + suffix, headers={"If-None-Match": f'W/"99", {etag}'})
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", etag)
        assert (await api.get(path + suffix, headers={"If-None-Match": '"99"'})).status == 200


async def test_history_and_state_are_what_the_ledger_replays(api: Api, ledger: Ledger) -> None:
    session = await opened(api)
    frames = await ledger.replay.timeline(session)
    history = (await api.get(f"/v1/sessions/{session}/history")).json
    assert [event["event"] for event in history["events"]] == [type(f.recorded.event).__name__ for f in frames]
    for frame in frames:
        form = json.loads(json.dumps(_plain(frame_form(frame, revealed=False))))
        at = frame.recorded.recorded_at.isoformat().replace("+", "%2B")
        assert (await api.get(f"/v1/sessions/{session}/state?at={frame.recorded.version}")).json == form
        assert (await api.get(f"/v1/sessions/{session}/state?at={at}")).json["position"] >= form["position"]
    early = await api.get(f"/v1/sessions/{session}/state?at=2001-01-01T00:00:00Z")
    assert (early.status, early.json["field"]) == (422, "at")


def _plain(value: Any) -> Any:
    import msgspec  # noqa: PLC0415

    return msgspec.to_builtins(value)


async def test_why_explains_what_a_session_waits_for(api: Api, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    reply = await api.post("/v1/sessions", GUEST)
    assert (reply.status, reply.json["status"]) == (202, "throttled")
    why = (await api.get(f"/v1/sessions/{reply.json['id']}/why")).json
    [waits, *_] = [condition for condition in why["steps"][0]["conditions"] if not condition["met"]]
    assert (waits["name"], waits["cause"]) == ("due_time", "throttled")
    limits = (await api.get("/v1/limits")).json["items"]
    name = next(limit["limiter"] for limit in limits if limit["closedBy"])
    reset = await api.post(f"/v1/limits/{name.replace('/', '%2F').replace(' ', '%20')}/reset")
    assert (reset.status, reset.json) == (200, {"limiter": name})
    assert (await api.post("/v1/limits/nobody/reset")).json["code"] == "limiter-not-found"


async def test_a_session_is_found_by_a_time_and_a_guest(api: Api) -> None:
    id_ = await opened(api, PERSON)
    await opened(api)
    known = (await api.get(f"/v1/sessions/{id_}/history")).json["events"][0]
    found = await api.post(
        "/v1/sessions/find",
        {"around": known["recordedAt"], "ipAddress": GUEST["ipAddress"], "idempotencyKey": "order-17"},
    )
    assert [(one["id"], one["status"], one["version"]) for one in found.json["items"]] == [(id_, "active", 1)]
    assert GUEST["ipAddress"] not in found.body.decode()
    nothing = await api.post("/v1/sessions/find", {})
    assert (nothing.status, nothing.json["code"]) == (422, "invalid-request")


async def test_sessions_are_listed_by_keyset_pages(api: Api) -> None:
    ids = [await opened(api) for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"/v1/sessions?limit=2{cursor}")).json
        seen += [row["id"] for row in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == ids[::-1]
    assert (await api.get("/v1/sessions?status=active&status=refused")).json["items"][0]["id"] == ids[-1]
    assert (await api.get("/v1/sessions?status=refused")).json["items"] == []
    assert (await api.get("/v1/sessions?cursor=nonsense")).json["field"] == "cursor"


async def test_a_guest_is_found_by_a_search_in_the_body(api: Api) -> None:
    session = await opened(api, PERSON)
    await opened(api)
    for path in ("/v1/sessions/search", "/v1/audit/search"):
        page = (await api.post(path, {"subjectId": "crm-1001"})).json
        assert [row["id"] for row in page["items"]] == [session]
        assert (await api.post(path, {"ipAddress": "nowhere"})).json["field"] == "ipAddress"
    for path in ("/v1/sessions", "/v1/audit"):
        refused = await api.get(f"{path}?subjectId=crm-1001")
        assert (refused.status, refused.json["field"]) == (422, "subjectId")


async def test_a_parked_session_is_resolved_at_its_version_only(new_ledger: NewLedger, simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(drop_share=1.0)
    async with new_ledger(cxone_in_doubt=InDoubt.PARK) as ledger, api_of(ledger) as api:
        session = (await api.post("/v1/sessions", GUEST)).json["id"]
        path, body = f"/v1/sessions/{session}/resolve", {"decision": "abandon", "reason": "ticket 4711"}
        etag = (await api.get(f"/v1/sessions/{session}")).headers["ETag"]
        stale = await api.post(path, body, headers={"If-Match": '"1"'})
        assert (stale.status, stale.json["code"]) == (412, "version-conflict")
        assert f'"{stale.json["actual"]}"' == etag
        done = await api.post(path, body, headers={"If-Match": etag})
        assert (done.status, done.json["status"]) == (200, "abandoned")
        again = await api.post(path, body)
        assert (again.status, again.json["code"], again.json["sessionStatus"]) == (
            409,
            "resolution-refused",
            "abandoned",
        )
        last = (await ledger.history(session))[-1]
        assert (type(last.event).__name__, last.actor) == ("AbandonmentDecided", "operator-key")


async def test_a_notice_is_sent_again(new_ledger: NewLedger, simulator: Simulator) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger, api_of(ledger) as api:
        session = (await api.post("/v1/sessions", GUEST)).json["id"]
        await ledger.scheduler.run_once()
        done = await api.post(f"/v1/sessions/{session}/redeliver", {"reason": "the receiver lost it"})
        assert (done.status, done.json["id"]) == (200, session)
        again = await api.post(f"/v1/sessions/{session}/redeliver", {"reason": "the receiver lost it"})
        assert (again.status, again.json["why"]) == (409, "in_delivery")


async def test_a_consent_is_withdrawn_once(api: Api) -> None:
    session = await opened(api, PERSON)
    first = await api.post(f"/v1/sessions/{session}/withdraw", {"reason": "letter"})
    assert first.json == {"id": session, "status": "withdrawn", "recorded": True}
    again = await api.post("/v1/withdrawals", {"subjectId": "crm-1001"}, role=Role.PRIVACY)
    assert again.json == {"items": [{"id": session, "status": "withdrawn", "recorded": False}]}


async def test_personal_data_is_shown_with_a_reason_which_is_recorded(api: Api, ledger: Ledger) -> None:
    session = await opened(api, PERSON)
    reason = {"Reveal-Reason": "ticket 4711"}
    for path in (f"/v1/sessions/{session}", f"/v1/sessions/{session}/history", "/v1/audit"):
        masked = await api.get(path, role=Role.PRIVACY)
        assert b"203.0.113.7" not in masked.body
        shown = await api.get(path, role=Role.PRIVACY, headers=reason)
        assert b"203.0.113.7" in shown.body
        for role in (Role.OPERATOR, Role.AUDITOR):
            refused = await api.get(path, role=role, headers=reason)
            assert (refused.status, refused.json["code"]) == (403, "role-not-allowed")
    looks = [
        e.event async for batch in ledger.events.read() for e in batch if isinstance(e.event, PersonalDataRevealed)
    ]
    assert [(look.revealed_by, look.reason) for look in looks] == [("privacy-key", "ticket 4711")] * 3


async def test_a_person_is_exported_and_erased(api: Api) -> None:
    session = await opened(api, PERSON)
    asked = {"subjectId": "crm-1001", "reason": "request 12"}
    exported = await api.post("/v1/exports", asked, role=Role.PRIVACY)
    assert exported.json["sessions"][0]["contact"]["ip_address"] == "203.0.113.7"
    held = await api.post("/v1/holds", asked, role=Role.PRIVACY)
    assert held.json == {"changed": [session], "unchanged": [], "detached": []}
    kept = await api.post("/v1/erasures", asked, role=Role.PRIVACY)
    assert (kept.status, kept.json["code"], kept.json["sessions"]) == (409, "under-legal-hold", [session])
    assert (await api.post("/v1/holds/release", asked, role=Role.PRIVACY)).status == 200
    erased = await api.post("/v1/erasures", asked, role=Role.PRIVACY)
    assert (erased.status, erased.json["sessions"]) == (200, 1)
    assert (await api.post("/v1/erasures", asked, role=Role.PRIVACY)).json == erased.json
    assert (await api.get(f"/v1/erasures/{erased.json['id']}", role=Role.AUDITOR)).json == erased.json
    assert (await api.get(f"/v1/erasures/{uuid4()}")).json["code"] == "erasure-not-found"
    nobody = await api.post("/v1/exports", {**asked, "subjectId": "nobody"}, role=Role.PRIVACY)
    assert (nobody.status, nobody.json["code"]) == (404, "nothing-held")


async def test_the_audit_log_is_a_page_lines_or_csv(api: Api) -> None:
    ids = [await opened(api) for _ in range(3)][::-1]
    page = (await api.get("/v1/audit?limit=2", role=Role.AUDITOR)).json
    assert [row["id"] for row in page["items"]] == ids[:2]
    rest = (await api.get(f"/v1/audit?limit=2&cursor={page['next']}", role=Role.AUDITOR)).json
    assert ([row["id"] for row in rest["items"]], rest["next"]) == (ids[2:], None)
    lines = await api.get("/v1/audit", role=Role.AUDITOR, headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line) for line in lines.body.splitlines()] == page["items"] + rest["items"]
    table = await api.get("/v1/audit", role=Role.AUDITOR, headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(table.body.decode())))
    assert (tuple(rows[0]), [row["id"] for row in rows]) == (CONTRACT_FIELDS, ids)
    assert table.headers["Content-Disposition"] == 'attachment; filename="audit.csv"'


async def test_metrics_without_their_library_say_what_to_install(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "find_spec", lambda _name: None)
    answer = await api.get("/metrics", role=Role.AUDITOR)
    assert (answer.status, answer.json["code"]) == (503, "not-configured")
    assert "guestledger[server]" in answer.json["detail"]


async def test_metrics_are_those_of_the_ledger(api: Api) -> None:
    await opened(api)
    found = (await api.get("/v1/metrics", role=Role.AUDITOR)).json
    assert (found["totalTracked"], found["successRate"], found["outcomes"]["created"]) == (1, 1.0, 1)
    [day] = (await api.get("/v1/metrics/days", role=Role.AUDITOR)).json["items"]
    assert (day["channelId"], day["created"]) == (GUEST["channelId"], 1)


async def test_head_answers_as_get_without_the_body(api: Api) -> None:
    path = f"/v1/sessions/{await opened(api)}"
    got, head = await api.get(path), await api.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag"):
        assert head.headers[name] == got.headers[name]


async def test_the_document_describes_every_route(api: Api) -> None:
    document = (await api.get("/v1/openapi.json", role=Role.AUDITOR)).json
    assert document["openapi"] == "3.1.0"
    assert "/v1/sessions/{id}/history" in document["paths"]


async def test_health_needs_no_key(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        reply = await api.get(path, role=None)
        assert (reply.status, reply.json) == (200, {"status": "ok"})


async def test_a_session_that_does_not_exist_is_404(api: Api) -> None:
    for path in ("", "/history", "/state", "/why"):
        reply = await api.get(f"/v1/sessions/{UUID(int=7)}{path}")
        assert (reply.status, reply.json["code"]) == (404, "session-not-found")
