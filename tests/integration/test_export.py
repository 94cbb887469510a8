"""Everything held on a person is handed over: as JSON, and as a page that shows it as it stands."""

import json
import re
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from guestledger.adapters.pages import export_page
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.errors import InvalidRequest, NothingHeld, ServiceUnreachable, SessionNotFound
from guestledger.engine.domain.events import PersonalDataRevealed
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.session import WebhookNotice
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.recorded import EventFilter
from guestledger.engine.operations.export import SENT_TO_PROVIDER, SENT_TO_WEBHOOK, PersonExport
from tests.integration.conftest import AT_ONCE
from tests.pages import Page
from tests.unit.samples import consent, request

ASKED = {"reason": "request of 2026-11-29", "by": "dpo"}
HOSTILE = '</style><script>alert(1)</script><img src=x onerror="alert(2)">\'"&{{731*977}}'


async def exported(ledger: Ledger, subject_id: str = "person-17") -> tuple[PersonExport, Any]:
    """The export of a person, and its JSON."""
    found = await ledger.export(subject_id=subject_id, **ASKED)
    return found, json.loads(msgspec.json.encode(found))


async def test_an_export_holds_every_session_of_the_person_and_of_nobody_else(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        own = [await ledger.open_session(request(subject_id="person-17")) for _ in range(2)]
        own.append(await ledger.open_session(request(subject_id="person-17", consent=consent(data_processing=False))))
        await ledger.open_session(request(subject_id="person-18", ip_address="198.51.100.9"))
        await ledger.scheduler.run_once()
        _, given = await exported(ledger)

    assert [session["id"] for session in given["sessions"]] == [str(session.id) for session in own]
    assert "198.51.100.9" not in json.dumps(given)
    assert (given["format"], given["subjectId"], given["reason"]) == (
        "guestledger-export/1",
        "person-17",
        ASKED["reason"],
    )


async def test_an_export_is_in_clear_and_holds_every_event(ledger: Ledger) -> None:
    session = await ledger.open_session(request(subject_id="person-17", idempotency_key="order-1"))
    _, given = await exported(ledger)
    [one] = given["sessions"]

    assert session.guest is not None
    assert one["contact"] == msgspec.to_builtins(session.guest)
    assert one["consent"]["sufficient"] is True
    assert one["consent"]["notice"] is None
    names = [recorded["event"] for recorded in one["events"]]
    assert names == ["ConsentRecorded", "ChannelValidated", "CreationAttempted", "SessionCreated"]
    assert one["events"][-1]["data"]["guest_token"] == session.guest_token
    assert len(one["events"]) == session.version


async def test_an_export_lists_what_was_sent_to_each_recipient(new_ledger: Any, simulator: Simulator) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        simulator.config = SimulatorConfig(throttle_share=1.0, webhook_status=500)
        session = await ledger.open_session(request(subject_id="person-17"))
        await ledger.scheduler.run_until_idle()
        found, _ = await exported(ledger)
    given = [(one.recipient, one.outcome) for one in found.sessions[0].disclosures]
    assert given[:2] == [("provider", "refused"), ("provider", "accepted")]
    assert set(given[2:]) == {("webhook", "refused")}

    # What is listed is what is sent, and no more.
    assert session.guest is not None
    notice = json.loads(simulator.webhooks[0].body)
    assert notice["fingerprint"] == session.guest.fingerprint
    assert set(notice) == {"event", "sessionId", "channelId", "fingerprint", "consentTimestamp", "timestamp"}
    assert SENT_TO_WEBHOOK[WebhookNotice.SESSION_STARTED] == ("fingerprint", "session id", "time of consent")
    assert SENT_TO_PROVIDER == ("fingerprint", "source", "campaign", "device type", "consent and its time")


async def test_an_export_after_the_erasure_shows_what_was_erased_and_when(
    new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=0)
    async with new_ledger(policy=replace(AT_ONCE, retention_days=0)) as ledger:
        session = await ledger.open_session(request(subject_id="person-17"))
        await ledger.scheduler.run_until_idle()
        with pytest.raises(NothingHeld, match="unknown, or it was erased"):
            await exported(ledger)
        found = await ledger.export(session=session.id, **ASKED)
    [one] = found.sessions
    assert [erased.event for erased in one.erased] == ["TokenPurged", "ContactErased"]
    assert set(one.contact["ip_address"]) == {"commitment"}
    assert "erased" in export_page(found)


async def test_an_export_takes_a_reason_and_one_person(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="reason"):
        await ledger.export(subject_id="person-17", reason="", by="dpo")
    with pytest.raises(ValueError, match="either subject_id or session"):
        await ledger.export(**ASKED)
    with pytest.raises(SessionNotFound):
        await ledger.export(session="sess_none", **ASKED)
    with pytest.raises(NothingHeld):
        await ledger.export(subject_id="person-99", **ASKED)


async def test_an_export_is_recorded_as_a_look(ledger: Ledger) -> None:
    own = [await ledger.open_session(request(subject_id="person-17")) for _ in range(2)]
    await ledger.open_session(request(subject_id="person-18"))
    await exported(ledger)

    looks = EventFilter(types=("PersonalDataRevealed",))
    [look] = [recorded async for batch in ledger.events.read(wanted=looks) for recorded in batch]
    assert isinstance(look.event, PersonalDataRevealed)
    assert (look.event.revealed_by, look.event.reason) == (ASKED["by"], ASKED["reason"])
    assert look.event.purposes == tuple(sorted(Purpose))
    assert set(look.event.sessions) == {session.id for session in own}


async def test_an_export_shows_nothing_unless_the_look_is_recorded(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.open_session(request(subject_id="person-17"))
    opened = []

    async def fails(_append: object) -> None:
        raise ServiceUnreachable("database", "connection_refused")  # type: ignore[arg-type]

    async def opens(*_: object) -> None:
        opened.append(1)

    monkeypatch.setattr(ledger._adapters.store, "append", fails)
    monkeypatch.setattr(ledger._adapters.personal, "opened", opens)
    with pytest.raises(ServiceUnreachable):
        await exported(ledger)
    assert opened == []


# The page


async def test_a_hostile_value_stays_text_on_the_page(ledger: Ledger) -> None:
    hostile = {"user_agent": HOSTILE, "source": HOSTILE, "campaign": HOSTILE, "subject_id": HOSTILE[:60]}
    plain = export_page((await _opened_and_exported(ledger, {}))[0])
    attacked = export_page((await _opened_and_exported(ledger, hostile))[0])

    page, harmless = Page(attacked), Page(plain)
    assert page.text.count(HOSTILE) >= 6
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in harmless.elements}
    assert not {"script", "img", "iframe", "object", "link", "base", "form"} & {tag for tag, _ in page.elements}
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert "714187" not in page.text


async def _opened_and_exported(ledger: Ledger, given: dict[str, str]) -> tuple[PersonExport, Any]:
    asked = request(**{"subject_id": "person-17", **given})
    await ledger.open_session(asked)
    assert asked.subject_id is not None
    return await exported(ledger, asked.subject_id)


async def test_the_page_loads_nothing_and_allows_only_its_own_style(ledger: Ledger) -> None:
    page = Page(export_page((await _opened_and_exported(ledger, {}))[0]))
    [policy] = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]+'; form-action 'none'; base-uri 'none'", policy
    )
    assert not [attrs for _, attrs in page.elements if {"src", "href", "style"} & attrs.keys()]


async def test_the_page_shows_all_that_the_json_holds(new_ledger: Any, simulator: Simulator) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        await ledger.open_session(request(subject_id="person-17", idempotency_key="order-1"))
        await ledger.scheduler.run_once()
        found, given = await exported(ledger)
    shown = " ".join(Page(export_page(found)).text.split())
    for value in _texts(given["sessions"]):
        assert value.replace("_", " ") in shown.replace("_", " ") or _is_time(value), value


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def _is_time(text: str) -> bool:
    return re.match(r"\d{4}-\d\d-\d\dT", text) is not None
