"""The console over HTTP, without scripts: who may see and do what, and what its answers carry."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from hmac import digest
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest

from guestledger.adapters.api.access import CACHE_SECONDS, BearerKeys, Caller, without_keys
from guestledger.adapters.api.exchange import Request
from guestledger.adapters.api.serve import serving
from guestledger.adapters.console.cookie import NAME, SECONDS, SignedIn
from guestledger.adapters.console.routes import console_routes
from guestledger.adapters.doors import application, asgi
from guestledger.adapters.forms.frames import frame_form
from guestledger.adapters.forms.values import given, value
from guestledger.adapters.simulator import Simulator
from guestledger.engine.domain.events import PersonalDataRevealed
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests.api import ADAPTERS, new_key, served, uvicorn_of
from tests.console import Browser, Page, browser_of, console_of
from tests.integration.conftest import NewLedger, Sql
from tests.lived_in import ADDRESS, AGENT, GUEST, IN_A_HURRY, SUBJECT, Sessions, live

CANARIES = (ADDRESS, AGENT, SUBJECT)
POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


@pytest.fixture
async def ledger(new_ledger: NewLedger, simulator: Simulator) -> AsyncIterator[Ledger]:
    async with new_ledger(policy=IN_A_HURRY, webhook_url=simulator.webhook_url, webhook_allow_private=True) as opened:
        yield opened


@pytest.fixture
async def sessions(ledger: Ledger, simulator: Simulator) -> Sessions:
    return await live(ledger, simulator)


def in_site(url: str) -> str:
    place = urlsplit(url)
    return f"{place.path}?{place.query}" if place.query else place.path


def links_of(page: Page) -> set[str]:
    return {str(link["href"]) for link in page.all("a") if not str(link["href"]).startswith("#")}


async def crawl(browser: Browser) -> dict[str, Page]:
    """Every page that links lead to, each checked; of those that differ only in a version, a few."""
    seen: dict[str, Page] = {}
    waiting = [browser.url + "/"]
    while waiting:
        url = waiting.pop()
        versions = sum("?at=" in one for one in seen)
        if url in seen or ("?at=" in url and versions > 30):
            continue
        reply = await browser.get(in_site(url))
        assert reply.status == 200, (url, reply.status, reply.text)
        assert reply.headers["Content-Security-Policy"] == POLICY or "bundle" in url, url
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        seen[url] = page = reply.page
        if "bundle" in url:
            continue
        assert_well_made(page, url)
        waiting += [urldefrag(urljoin(url, link))[0] for link in links_of(page)]
    return seen


def assert_well_made(page: Page, url: str) -> None:
    assert len(page.all("title")) >= 1, url
    assert len(page.all("h1")) == 1, url
    assert len(page.all("main")) == 1, url
    labelled = {label.get("for") for label in page.all("label")}
    for tag in ("input", "select", "textarea"):
        for field in page.all(tag):
            if field.get("type") not in ("hidden", "radio", "checkbox"):
                assert field.get("id") in labelled, (url, field)
    for _, attrs in page.elements:
        for name in ("src", "href", "action", "formaction"):
            given = attrs.get(name) or ""
            assert not given.startswith(("http:", "https:", "//")), (url, given)
        assert not [name for name in attrs if name.startswith("on") or name == "style"], (url, attrs)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("role", list(Role))
async def test_every_page_that_links_lead_to_is_served_to_each_role(
    ledger: Ledger, sessions: Sessions, role: Role, adapter: str
) -> None:
    async with console_of(ledger, adapter, role=role) as browser:
        pages = await crawl(browser)
    for page in ("/", "/find", "/audit", f"/sessions/{sessions['parked']}", f"/sessions/{sessions['refused']}/what-if"):
        assert browser.url + page in pages, page
    for url, page in pages.items():
        for canary in CANARIES:
            assert canary not in page.text, url


async def test_nobody_sees_a_page_before_signing_in(ledger: Ledger, sessions: Sessions) -> None:
    session = sessions["active"]
    async with console_of(ledger) as browser:
        for path in ("", "find", "audit", "live", f"sessions/{session}", f"sessions/{session}/bundle"):
            reply = await browser.get(path)
            assert (reply.status, urlsplit(reply.location).path) == (303, "/sign-in"), path
        for path in ("find", "audit", *(f"sessions/{session}/{act}" for act in ("resolve", "redeliver", "reveal"))):
            assert (await browser.post(path, {"session": "x"})).status == 303, path
        assert (await browser.get(f"sessions/{session}")).location.endswith(f"/sign-in?next=sessions/{session}")


async def test_signing_in_leads_on_and_signing_out_ends_it(ledger: Ledger) -> None:
    key = await new_key(ledger, Role.AUDITOR)
    async with console_of(ledger) as browser:
        reply = await browser.post("sign-in", {"key": f" {key} ", "next": "audit"})
        assert reply.status == 303
        cookie = reply.headers["Set-Cookie"]
        assert cookie.startswith(f"{NAME}=")
        assert key.split("_", 2)[2] not in cookie
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert "Secure" not in cookie, "plain HTTP, on this machine"
        assert (
            await browser.get(urlsplit(reply.location).path + "?done=true&next=audit")
        ).location == f"{browser.url}/audit"
        assert "auditor-key auditor" in (await browser.get("audit")).page.text
        assert (await browser.post("sign-out")).status == 303
        assert (await browser.get("audit")).status == 303


@pytest.mark.parametrize(
    "place",
    [
        "audit?session=0190b3c1&webhook=failed&webhook=owed",
        "sessions/sess%3A%C3%B6%2F1?at=4",
        "sessions/sess:1",
        "?span=14d",
    ],
)
async def test_signing_in_leads_to_the_page_that_was_asked_for(ledger: Ledger, place: str) -> None:
    key = await new_key(ledger, Role.AUDITOR)
    async with console_of(ledger) as browser:
        form = await browser.get(in_site((await browser.get(place)).location))
        assert form.status == 200
        hidden = {str(one["name"]): str(one["value"]) for one in form.page.all("input") if one.get("type") == "hidden"}
        assert urljoin(form.url, next(link for link in links_of(form.page))) == f"{browser.url}/{place}"
        done = await browser.post("sign-in", {"key": key, **hidden})
        assert (await browser.get(in_site(done.location))).location == f"{browser.url}/{place}"


async def test_a_place_too_long_to_come_back_to_still_leads_to_the_form(ledger: Ledger) -> None:
    async with console_of(ledger) as browser:
        for place in ("audit?channel=" + "x" * 500, "sessions/%2e%2e", "audit?channel=<>"):
            assert (await browser.get(place)).location == f"{browser.url}/sign-in"


async def test_a_wrong_key_signs_nobody_in(ledger: Ledger) -> None:
    key = await new_key(ledger, Role.OPERATOR)
    async with console_of(ledger) as browser:
        for wrong in ("", "glk_wrong", key[:-1], "x" * 200):
            reply = await browser.sign_in(wrong)
            assert (reply.status, reply.headers.get("Set-Cookie")) == (403, None)
            assert "unknown or was revoked" in reply.text
            assert not wrong or wrong not in reply.text


async def test_another_site_is_never_led_to(ledger: Ledger) -> None:
    async with console_of(ledger) as browser:
        elsewhere = ("//evil.example", "https://evil.example", "..//evil.example", "\\evil.example")
        for place in (*elsewhere, "a/..//x", "a/../../x", "a/%2E./%2e%2e/x", "../x", "%2e%2e/x", "/x", "?a#//x", "a:b"):
            key = await new_key(ledger, Role.AUDITOR)
            reply = await browser.post("sign-in", {"key": key, "next": place})
            assert reply.status == 422, place


async def test_a_cookie_ends_with_its_key_and_after_hours(ledger: Ledger) -> None:
    now = 1_000.0
    read_at = 0.0
    signed_in = SignedIn(BearerKeys(now=lambda: read_at), now=lambda: now)
    await new_key(ledger, Role.AUDITOR)
    [key] = await ledger.access.list()
    place = Request(method="GET", path="/", headers={"host": "ledger.example"})
    cookie = (await signed_in.cookie(key, place, ledger)).partition(";")
    assert "; Secure" in cookie[2] + cookie[1]

    def request(text: str) -> Request:
        return Request(method="GET", path="/", headers={"cookie": f"other=1; {text}"})

    assert (await signed_in(request(cookie[0]), ledger)).name == "auditor-key"
    forged = cookie[0].replace(str(int(now) + SECONDS), str(int(now) + 2 * SECONDS))
    for wrong in (forged, cookie[0][:-1], f"{NAME}=", f"{NAME}=..", f"{NAME}={key.id.hex}.x.y"):
        with pytest.raises(Exception, match="key-missing"):
            await signed_in(request(wrong), ledger)
    now += SECONDS
    with pytest.raises(Exception, match="key-missing"):
        await signed_in(request(cookie[0]), ledger)
    now -= 1
    assert await signed_in(request(cookie[0]), ledger)
    await ledger.access.revoke(key.id, requested_by="ops")
    read_at += CACHE_SECONDS
    with pytest.raises(Exception, match="key-missing"):
        await signed_in(request(cookie[0]), ledger)


async def test_a_cookie_cannot_be_made_from_what_the_table_of_keys_holds(ledger: Ledger) -> None:
    await new_key(ledger, Role.OPERATOR)
    [key] = await ledger.access.list()
    signed_in, end = SignedIn(BearerKeys(), now=lambda: 1_000.0), "2000"
    text = f"{key.id.hex}.{end}".encode()
    forged = f"{NAME}={key.id.hex}.{end}.{digest(key.digest, text, 'sha256').hex()}"
    with pytest.raises(Exception, match="key-missing"):
        await signed_in(Request(method="GET", path="/", headers={"cookie": forged}), ledger)


@pytest.mark.parametrize(
    ("headers", "secure"),
    [
        ({"Origin": ""}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://ledger.example"}, True),
        ({"Origin": "https://127.0.0.1"}, True),
        ({"Origin": "http://ledger.example"}, True),
        ({"X-Forwarded-Proto": "https"}, True),
        ({"X-Forwarded-For": "203.0.113.9"}, True),
        ({"Forwarded": "proto=https"}, True),
    ],
)
async def test_the_cookie_is_secure_wherever_a_proxy_is_seen(
    ledger: Ledger, headers: dict[str, str], *, secure: bool
) -> None:
    async with console_of(ledger) as browser:
        assert {"name": "referrer", "content": "same-origin"} in (await browser.get("sign-in")).page.all("meta")
        form = {"key": await new_key(ledger, Role.AUDITOR)}
        reply = await browser.post("sign-in", form, {"Sec-Fetch-Site": "same-origin", **headers})
    assert reply.status == 303
    assert ("Secure" in reply.headers["Set-Cookie"]) == secure


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
async def test_a_form_of_another_site_is_refused(ledger: Ledger, sessions: Sessions, headers: dict[str, str]) -> None:
    parked = sessions["parked"]
    before = await ledger.session(parked)
    async with console_of(ledger, role=Role.OPERATOR) as browser:
        form = {"decision": "abandon", "reason": "csrf", "version": str(before.version)}
        for path, given in (
            (f"sessions/{parked}/resolve", form),
            ("find", {"session": str(parked)}),
            ("sign-out", {}),
            ("sign-in", {"key": "x"}),
        ):
            assert (await browser.post(path, given, headers)).status == 403, path
    assert (await ledger.session(parked)).version == before.version


async def test_a_parked_session_is_resolved_with_reason_and_name(ledger: Ledger, sessions: Sessions) -> None:
    parked = sessions["parked"]
    version = (await ledger.session(parked)).version
    form = {"decision": "abandon", "reason": "nothing at the provider", "version": str(version)}
    async with console_of(ledger, role=Role.OPERATOR) as browser:
        assert "Somebody has to decide" in (await browser.get(f"sessions/{parked}")).page.text
        late = await browser.post(f"sessions/{parked}/resolve", {**form, "version": "1"})
        assert late.status == 412
        assert f"sessions/{parked}" in late.text
        assert (await browser.post(f"sessions/{parked}/resolve", {**form, "reason": " "})).status == 422
        assert (await browser.post(f"sessions/{parked}/resolve", form)).location == f"{browser.url}/sessions/{parked}"
        shown = (await browser.get(f"sessions/{parked}")).page.text
    last = (await ledger.history(parked))[-1]
    assert (last.actor, last.event.decided_by, last.event.reason) == (  # type: ignore[union-attr]
        "operator-key",
        "operator-key",
        "nothing at the provider",
    )
    assert "abandoned" in shown
    assert "Somebody has to decide" not in shown


async def test_a_session_is_adopted_by_form(ledger: Ledger, sessions: Sessions) -> None:
    parked = sessions["parked"]
    form = {"decision": "adopt", "reason": "found", "version": str((await ledger.session(parked)).version)}
    async with console_of(ledger, role=Role.OPERATOR) as browser:
        assert (await browser.post(f"sessions/{parked}/resolve", form)).status == 422
        form |= {"sessionId": "sess_found", "expiresAt": "2030-01-01", "token": "gt_secret"}
        assert (await browser.post(f"sessions/{parked}/resolve", form)).status == 303
        assert "gt_secret" not in (await browser.get(f"sessions/{parked}")).text
    session = await ledger.session(parked, token=True)
    assert (session.session_id, session.guest_token) == ("sess_found", "gt_secret")


async def test_a_dead_letter_is_sent_again(ledger: Ledger, sessions: Sessions) -> None:
    letter = sessions["dead letter"]
    version = str((await ledger.session(letter)).version)
    async with console_of(ledger, role=Role.OPERATOR) as browser:
        form = {"reason": "the receiver is back", "version": version}
        assert (await browser.post(f"sessions/{letter}/redeliver", form)).status == 303
        assert (
            "operator-key had it sent again: the receiver is back"
            in (await browser.get(f"sessions/{letter}")).page.text
        )
        assert (await browser.post(f"sessions/{letter}/redeliver", {**form, "version": version})).status == 412


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.PRIVACY])
async def test_only_an_operator_decides(ledger: Ledger, sessions: Sessions, role: Role) -> None:
    async with console_of(ledger, role=role) as browser:
        page = (await browser.get(f"sessions/{sessions['parked']}")).page
        assert "A key with the role operator can decide." in page.text
        assert not [form for form in page.all("form") if str(form.get("action", "")).endswith("resolve")]
        for act, form in (
            ("resolve", {"decision": "retry", "reason": "x", "version": "4"}),
            ("redeliver", {"reason": "x", "version": "4"}),
        ):
            assert (await browser.post(f"sessions/{sessions['parked']}/{act}", form)).status == 403


async def test_a_look_at_personal_data_is_recorded_before_it_is_shown(ledger: Ledger, sessions: Sessions) -> None:
    active = sessions["active"]
    async with console_of(ledger, role=Role.PRIVACY) as browser:
        assert (await browser.post(f"sessions/{active}/reveal", {"reason": ""})).status == 422
        shown = await browser.post(f"sessions/{active}/reveal", {"reason": "access request 12", "at": "1"})
        assert (shown.status, shown.headers["Cache-Control"]) == (200, "no-store")
        for canary in CANARIES:
            assert canary in shown.page.text
        for link in links_of(shown.page):
            page = await browser.get(in_site(urljoin(shown.url, link)))
            assert (page.status, ADDRESS in page.text) == (200, False), link
        assert ADDRESS not in (await browser.get(f"sessions/{active}")).page.text
    looks = [
        one.event
        async for batch in ledger.events.read()
        for one in batch
        if isinstance(one.event, PersonalDataRevealed)
    ]
    assert [(look.revealed_by, look.reason, look.sessions) for look in looks] == [
        ("privacy-key", "access request 12", (active,))
    ]


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.OPERATOR])
async def test_only_privacy_reveals(ledger: Ledger, sessions: Sessions, role: Role) -> None:
    async with console_of(ledger, role=role) as browser:
        reply = await browser.post(f"sessions/{sessions['active']}/reveal", {"reason": "curious"})
        assert reply.status == 403
        assert ADDRESS not in reply.text
    assert not [
        one async for batch in ledger.events.read() for one in batch if isinstance(one.event, PersonalDataRevealed)
    ]


async def test_an_auditor_cannot_search_by_guest(ledger: Ledger, sessions: Sessions) -> None:
    async with console_of(ledger, role=Role.AUDITOR) as browser:
        for path in ("find", "audit"):
            assert (await browser.post(path, {"ip": ADDRESS})).status == 403
            assert 'name="ip"' not in (await browser.get(path)).text


async def test_a_guest_is_found_by_address(ledger: Ledger, sessions: Sessions) -> None:
    async with console_of(ledger, role=Role.OPERATOR) as browser:
        found = (await browser.post("find", {"ip": ADDRESS, "status": "parked"})).page.text
        assert str(sessions["parked"]) in found
        assert "1 found" in found
        wrong = await browser.post("find", {"ip": "nonsense"})
        assert (wrong.status, "not an IPv4 or IPv6 address" in wrong.text) == (422, True)
        assert (await browser.post("find", {"around": "25:99"})).status == 422
        by_id = await browser.post("find", {"session": str(sessions["parked"])})
        assert by_id.location == f"{browser.url}/sessions/{sessions['parked']}"
        nothing = (await browser.post("find", {"session": "nobody"})).page.text
        assert "There is no session with this id" in nothing


async def test_each_version_shows_what_a_replay_has(ledger: Ledger, sessions: Sessions) -> None:
    frames = await ledger.replay.timeline(sessions["retried"])
    day = frames[0].recorded.recorded_at.date()
    async with console_of(ledger, role=Role.AUDITOR) as browser:
        for frame in frames:
            page = (await browser.get(f"sessions/{sessions['retried']}?at={frame.recorded.version}")).page
            state = given(frame_form(frame, revealed=False).state)
            assert page.facts("state") == {name: value(found, day) for name, found in state.items()}
            if frame.due:
                assert page.facts("due") == {step.step: value(step.due_at, day) for step in frame.due}
        assert (await browser.get(f"sessions/{sessions['retried']}?at=0")).status == 422
        beyond = (await browser.get(f"sessions/{sessions['retried']}?at=999")).page
        assert beyond.facts("state")["version"] == str(len(frames))


async def test_pages_of_the_audit_log_follow_each_other(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, sessions: Sessions
) -> None:
    monkeypatch.setattr("guestledger.adapters.console.audit.ROWS", 5)
    expected = [str(entry.id) async for entry in ledger.audit()][::-1]
    seen: list[str] = []
    async with console_of(ledger, role=Role.AUDITOR) as browser:
        form: dict[str, str] = {"channel": "ch_main"}
        while True:
            reply = await browser.post("audit", form)
            seen += [
                href.rpartition("/")[2] for href in [str(a["href"]) for a in reply.page.all("a")] if "sessions/" in href
            ]
            hidden = {
                str(one["name"]): str(one["value"]) for one in reply.page.all("input") if one.get("type") == "hidden"
            }
            if "cursor" not in hidden:
                break
            assert hidden["channel"] == "ch_main"
            form = hidden
    assert seen == [id_ for id_ in expected if id_ != str(sessions["rejected"])]


async def test_a_what_if_shows_the_first_difference(ledger: Ledger, sessions: Sessions) -> None:
    async with console_of(ledger, role=Role.AUDITOR) as browser:
        path = f"sessions/{sessions['retried']}/what-if"
        assert "Change a field, then ask." in (await browser.get(path)).page.text
        same = await browser.get(f"{path}?maxFailures=9")
        assert "It would have been the same" in same.page.text
        other = await browser.get(f"{path}?deadlineMs=1&maxFailures=8")
        assert "It would have gone another way" in other.page.text
        assert "SessionAbandoned" in other.page.text
        no_flag = "webhookEnabled=no&policy=%7B%22webhook_enabled%22:%7B%7D%7D"
        nested = "policy=" + "%5B" * 1_500
        for wrong in ("maxFailures=many", "policy=%7B", "policy=%5B%5D", "deadlineMs=-1", no_flag, nested):
            reply = await browser.get(f"{path}?{wrong}")
            assert (reply.status, 'role="alert"' in reply.text) == (422, True), wrong


async def test_without_keys_nobody_signs_in(ledger: Ledger, sessions: Sessions) -> None:
    app = application(ledger, authenticate=without_keys)
    async with serving(app, "127.0.0.1", 0, drain_seconds=5) as url, browser_of(url) as browser:
        page = (await browser.get("")).page
        assert "without key" in page.text
        assert "Sign out" not in page.text
        form = {"decision": "retry", "reason": "x", "version": str((await ledger.session(sessions["parked"])).version)}
        headers = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}
        assert (await browser.post(f"sessions/{sessions['parked']}/resolve", form, headers)).status == 303
        assert (await browser.get("", {"Host": "evil.example"})).status == 403
        assert (await browser.get("sign-in")).status == 404


async def test_a_host_may_name_the_caller_itself(ledger: Ledger, sessions: Sessions) -> None:
    async def authenticate(_request: Request, _ledger: Ledger) -> Caller:
        return Caller(name="jane@host", roles=frozenset({Role.AUDITOR}))

    app = application(ledger, authenticate=authenticate)
    async with serving(app, "127.0.0.1", 0, drain_seconds=5) as url, browser_of(url) as browser:
        assert "jane@host auditor" in (await browser.get("")).page.text
        assert (await browser.post("find", {"session": "x"}, {"Origin": "https://evil.example"})).status == 403


async def test_the_live_stream_reports_growth_and_ends_with_the_server(ledger: Ledger) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        async with served(ledger, "aiohttp") as url:
            browser = await stack.enter_async_context(browser_of(url))
            await browser.sign_in(await new_key(ledger, Role.AUDITOR))
            stream = await browser._http.get(f"{url}/live")
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            assert b"event: grown" in await stream.content.readuntil(b"\n\n")
            await ledger.open_session(GUEST)
            assert b"event: grown" in await stream.content.readuntil(b"\n\n")
        await stream.content.read()  # raises if it was cut off


async def test_the_live_stream_ends_when_the_host_closes_its_ledger(ledger: Ledger) -> None:
    mounted = asgi()
    mounted.use(ledger)
    async with asyncio.timeout(60), uvicorn_of(mounted) as url, browser_of(url) as browser:
        await browser.sign_in(await new_key(ledger, Role.AUDITOR))
        stream = await browser._http.get(f"{url}/live")
        await stream.content.readuntil(b"\n\n")
        mounted.use(None)
        assert await stream.content.read() == b""
        assert (await browser.get("")).status == 503
        mounted.use(ledger)
        assert (await browser.get("")).status == 200


async def test_a_process_has_so_many_live_pages_and_no_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guestledger.adapters.console.live.STREAMS", 1)
    async with (
        asyncio.timeout(60),
        console_of(ledger, role=Role.AUDITOR) as browser,
        browser._http.get(f"{browser.url}/live") as first,
    ):
        await first.content.readuntil(b"\n\n")
        assert (await browser.get("live")).status == 429


async def test_hours_add_up_to_the_metrics(ledger: Ledger, sessions: Sessions) -> None:
    hours = await ledger.projections.outcomes_by_hour()
    counts = (await ledger.metrics()).counts
    assert {name: sum(hour.counts[name] for hour in hours) for name in counts} == counts
    assert [hour.hour.minute for hour in hours] == [0] * len(hours)


async def test_what_needs_a_person_is_shown_however_old_it_is(ledger: Ledger, sessions: Sessions, sql: Sql) -> None:
    needed = {f"./sessions/{sessions[which]}" for which in ("parked", "dead letter")}
    await ledger.projections.catch_up()
    for table in ("sessions", "audit_log"):
        await sql(f"UPDATE {table} SET opened_at = opened_at - interval '2 years'")
    async with console_of(ledger, role=Role.AUDITOR) as browser:
        page = (await browser.get("")).page
    assert needed <= links_of(page)


async def test_a_refused_form_leads_back_to_its_session(ledger: Ledger, sessions: Sessions) -> None:
    session = sessions["active"]
    form = {"decision": "retry", "reason": "x", "version": str((await ledger.session(session)).version)}
    async with console_of(ledger, role=Role.OPERATOR) as browser:
        reply = await browser.post(f"sessions/{session}/resolve", form)
        assert reply.status == 409
        assert f"../../sessions/{session}" in links_of(reply.page)
    async with console_of(ledger) as browser:
        assert (await browser.post(f"sessions/{session}/resolve", form)).location == f"{browser.url}/sign-in"


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_wrong_url_is_a_page_for_browsers_only(ledger: Ledger, sessions: Sessions, adapter: str) -> None:
    html = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    session = f"sessions/{sessions['active']}"
    async with console_of(ledger, adapter) as browser:
        for path, status, root in (
            ("no/such/page", 404, "../../"),
            ("Audit", 404, "./"),
            (f"{session}/reveal", 405, "../../"),
        ):
            reply = await browser.get(path, html)
            assert (reply.status, reply.headers["Content-Type"]) == (status, "text/html; charset=utf-8"), path
            assert reply.headers["Content-Security-Policy"] == POLICY
            assert {root, f"{root}find", f"{root}audit"} <= links_of(reply.page), path
            assert_well_made(reply.page, path)
        assert f"../../{session}" in links_of((await browser.get(f"{session}/reveal", html)).page)
        for path, headers in (("no/such/page", {}), ("v1/nothing", html)):
            assert (await browser.get(path, headers)).headers["Content-Type"] == "application/problem+json", path


def test_each_page_needs_a_role_except_the_door() -> None:
    public = {(route.method, route.path) for route in console_routes(BearerKeys()) if not route.roles}
    assert public == {
        ("GET", "/console.css"),
        ("GET", "/console.js"),
        ("GET", "/sign-in"),
        ("POST", "/sign-in"),
        ("POST", "/sign-out"),
    }
