"""docs/contract.md against the bytes on the wire."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web
from msgspec.structs import fields, replace

from guestledger import (
    AuditEntry,
    ComplianceStatus,
    DeliveryPolicy,
    GuestConsent,
    GuestRequest,
    Profile,
    connect,
    contract_form,
    parse_request,
)
from guestledger.adapters.cxone.answers import Reader, creation_purpose, lookup_purpose
from guestledger.adapters.http.transport import Answer
from tests.docs.blocks import ROOT, blocks_of, the_file
from tests.docs.scenario import Scenario, scenario

TEXT = (ROOT / "docs" / "contract.md").read_text()
PROFILE = Profile()


def page(file: str) -> Any:
    return json.loads(the_file("contract.md", file))


def shown(file: str, **values: str) -> str:
    """The body of a block without blanks, with these values in place of those that differ each time."""
    found = json.dumps(page(file), separators=(",", ":"))
    for name, value in values.items():
        found = re.sub(rf'("{name}":)"[^"]*"', rf'\1"{value}"', found)
    return found


class Wire:
    """Records requests whole, and answers with what the page shows."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

    async def handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, dict(request.headers), body))
        answers = {"/oauth/token": "token-answer.json", "/api/v1/chat/sessions": "creation-answer.json"}
        file = answers.get(request.path, "channel-answer.json")
        return web.Response(text=the_file("contract.md", file).replace("eyJ…", "eyJ0"), content_type="application/json")


@pytest.fixture
async def running(database_url: str, tmp_path: Path) -> AsyncIterator[Scenario]:
    async with scenario(database_url, tmp_path) as made:
        yield made


async def test_creation_and_webhook_are_sent_as_shown(running: Scenario) -> None:
    assert running.active is not None
    [sent] = [each for each in running.simulator.requests if each.key == str(running.active.id)]
    values = _values_of(sent.body)
    assert sent.body.decode() == shown("creation.json", **values)
    assert (sent.method, sent.path) == ("POST", PROFILE.session_path)

    notice = running.simulator.webhooks[0]
    session = running.active
    values = _values_of(notice.body) | {"sessionId": str(session.session_id), "channelId": session.channel_id}
    assert notice.body.decode() == shown("webhook.json", **values)
    assert notice.headers["content-type"] == "application/json"


async def test_notice_of_a_withdrawal_is_sent_as_shown(running: Scenario) -> None:
    session = running.active
    assert session is not None
    async with connect(running.settings, scheduler=False) as ledger:
        await ledger.withdraw(session.id, requested_by="guest")
        await ledger.scheduler.run_once()
    notice = running.simulator.webhooks[-1]
    values = _values_of(notice.body) | {"sessionId": str(session.session_id), "channelId": session.channel_id}
    assert notice.body.decode() == shown("webhook-withdrawn.json", **values)


def _values_of(body: bytes) -> dict[str, str]:
    names = ("visitorFingerprint", "fingerprint", "consentTimestamp", "timestamp")
    values = {name: found[1] for name in names if (found := re.search(rf'"{name}":"([^"]*)"', body.decode()))}
    for name, value in values.items():
        assert re.fullmatch(r"[0-9a-f]{64}" if "ingerprint" in name else r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value)
    return values


async def test_requests_and_answers_are_as_shown(running: Scenario) -> None:
    wire = Wire()
    runner = web.ServerRunner(web.Server(wire.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = replace(running.settings, cxone_url=url, webhook_url=None)
    async with connect(settings, scheduler=False) as ledger:
        session = await ledger.open_session(parse_request(the_file("contract.md", "guest-request.json").encode()))
    await runner.cleanup()

    assert (session.status, session.session_id) == ("active", page("creation-answer.json")["sessionId"])
    assert session.guest_token == page("creation-answer.json")["token"]
    token, channel, creation = wire.requests
    assert token[:2] == ("POST", "/oauth/token")
    form = re.findall(
        r"(\w+)=", next(block.text for block in blocks_of(ROOT / "docs" / "contract.md") if block.language == "text")
    )
    assert [name for name, _ in parse_qsl(token[3].decode())] == form
    assert token[2]["Content-Type"] == "application/x-www-form-urlencoded"
    assert channel[:2] == ("GET", "/api/v2/channels/ch_8f3a9b2c")
    assert creation[2]["Idempotency-Key"] == str(session.id)
    for _, _, headers, _ in wire.requests:
        assert headers["User-Agent"] == "guestledger"
        assert (headers["Accept"], headers["Accept-Encoding"]) == ("application/json", "identity")
    assert channel[2]["Authorization"] == creation[2]["Authorization"] == "Bearer eyJ0"


@pytest.mark.parametrize("missing", ["sessionId", "token"])
def test_fields_that_the_page_calls_required_are(missing: str) -> None:
    answer = page("creation-answer.json")
    reader, purpose = Reader(PROFILE), creation_purpose(PROFILE)
    made = reader.created(Answer(status=201, body=json.dumps(answer).encode()), purpose, 1)
    assert type(made).__name__ == "Created"
    del answer[missing]
    failed = reader.created(Answer(status=201, body=json.dumps(answer).encode()), purpose, 1)
    assert type(failed).__name__ == "Failed"
    assert lookup_purpose(PROFILE).scope in TEXT


def test_table_of_the_request_names_every_field() -> None:
    table = TEXT.partition("| field | required")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| .+? \|", table, re.MULTILINE))))
    known = {field.encode_name for field in fields(GuestRequest)} - {"consent"}
    assert named == known | {f"consent.{field.encode_name}" for field in fields(GuestConsent)}


def test_audit_entry_has_the_fields_that_are_shown() -> None:
    entry = json.loads(the_file("auditing.md", "audit-entry.json"))
    given = dict.fromkeys(AuditEntry.__struct_fields__)
    assert list(contract_form(AuditEntry(**given))) == list(entry)  # type: ignore[arg-type]
    assert entry["complianceStatus"] in set(ComplianceStatus)


def test_schedule_is_the_one_that_is_shown() -> None:
    units = {"s": 1_000, "min": 60_000, "h": 3_600_000}
    line = TEXT.partition("repeated by the schedule:")[2].partition(". Deliveries")[0]
    assert (
        tuple(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", line))
        == DeliveryPolicy().waits_ms
    )
