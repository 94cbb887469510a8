"""Who may do what: each route with each role, and what is refused at the door."""

import asyncio
import logging
from collections.abc import AsyncIterator
from uuid import UUID

import aiohttp
import pytest

from guestledger.adapters.api.access import CACHE_SECONDS, BearerKeys, key_text, without_keys
from guestledger.adapters.api.admission import Admission, ApiLimits
from guestledger.adapters.api.app import App
from guestledger.adapters.api.exchange import Request, Response
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.api.route import Context, Params, Route
from guestledger.adapters.api.routes import ROUTES
from guestledger.adapters.doors import asgi
from guestledger.adapters.settings import Settings
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests.api import ADAPTERS, GUEST, Api, api_of, new_key, uvicorn_of
from tests.docs.asgi import Asgi
from tests.keys import KEY

O, A, P = Role.OPERATOR, Role.AUDITOR, Role.PRIVACY  # noqa: E741 - the table is read as one
ALLOWED = {
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /metrics": {O, A, P},
    "GET /v1/openapi.json": {O, A, P},
    "POST /v1/sessions": {O},
    "GET /v1/sessions": {O, A, P},
    "POST /v1/sessions/search": {O, P},
    "POST /v1/sessions/find": {O, P},
    "GET /v1/sessions/{id}": {O, A, P},
    "POST /v1/sessions/{id}/token": {O},
    "GET /v1/sessions/{id}/history": {O, A, P},
    "GET /v1/sessions/{id}/state": {O, A, P},
    "GET /v1/sessions/{id}/why": {O, A, P},
    "POST /v1/sessions/{id}/resolve": {O},
    "POST /v1/sessions/{id}/redeliver": {O},
    "POST /v1/sessions/{id}/withdraw": {O, P},
    "POST /v1/withdrawals": {O, P},
    "POST /v1/sessions/{id}/export": {P},
    "POST /v1/sessions/{id}/erase": {P},
    "POST /v1/sessions/{id}/hold": {P},
    "POST /v1/sessions/{id}/release": {P},
    "POST /v1/exports": {P},
    "POST /v1/erasures": {P},
    "POST /v1/holds": {P},
    "POST /v1/holds/release": {P},
    "GET /v1/erasures/{id}": {O, A, P},
    "GET /v1/audit": {O, A, P},
    "POST /v1/audit/search": {O, P},
    "GET /v1/metrics": {O, A, P},
    "GET /v1/metrics/days": {O, A, P},
    "GET /v1/limits": {O, A, P},
    "POST /v1/limits/{name}/reset": {O},
}


@pytest.fixture(params=ADAPTERS)
async def api(request: pytest.FixtureRequest, ledger: Ledger) -> AsyncIterator[Api]:
    async with api_of(ledger, request.param) as running:
        yield running


def test_the_table_has_every_route() -> None:
    assert [f"{route.method} {route.path}" for route in ROUTES if f"{route.method} {route.path}" not in ALLOWED] == []
    assert len(ALLOWED) == len(ROUTES)


async def test_each_route_is_for_its_roles_only(api: Api) -> None:
    for line, allowed in ALLOWED.items():
        method, _, template = line.partition(" ")
        path = template.replace("{id}", str(UUID(int=7))).replace("{name}", "nobody")
        body = {} if method == "POST" else None
        for role in (None, *Role):
            reply = await api.call(method, path, body, role=role)
            if allowed is None:
                assert reply.status == 200, line
            elif role is None:
                assert (reply.status, reply.json["code"]) == (401, "key-missing"), line
            elif role not in allowed:
                assert (reply.status, reply.json["code"]) == (403, "role-not-allowed"), (line, role)
            else:
                assert reply.status in (200, 404, 422), (line, role, reply)


@pytest.mark.parametrize(
    "given",
    [
        "Basic YTpi",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Bearer glk_",
        "Bearer glk_0190b3c12f4e7d338a905b1f0f6f4a11",
        "Bearer glk_0190b3c12f4e7d338a905b1f0f6f4a11_secret",
        "Bearer glk_zz_secret",
        "Bearer \xe9",
    ],
)
async def test_a_wrong_key_is_refused(ledger: Ledger, given: str) -> None:
    with pytest.raises(Refused) as refused:
        await BearerKeys()(Request(method="GET", path="/", headers={"authorization": given}), ledger)
    assert refused.value.problem.status == 401
    assert refused.value.headers["www-authenticate"].startswith("Bearer")


async def test_the_id_of_a_key_is_not_enough(ledger: Ledger) -> None:
    key = await new_key(ledger, Role.OPERATOR)
    id_ = UUID(key.split("_")[1])
    for wrong in (key_text(id_, "guess"), key[:-1], key + "a"):
        with pytest.raises(Refused, match="key-invalid"):
            await BearerKeys()(Request(method="GET", path="/", headers={"authorization": f"Bearer {wrong}"}), ledger)


async def test_a_revoked_key_is_refused_within_seconds(ledger: Ledger) -> None:
    time = 0.0
    keys = BearerKeys(now=lambda: time)
    text = await new_key(ledger, Role.AUDITOR, "jane")
    request = Request(method="GET", path="/", headers={"authorization": f"Bearer {text}"})
    caller = await keys(request, ledger)
    assert (caller.name, caller.roles) == ("jane", {Role.AUDITOR})

    key = UUID(text.split("_")[1])
    assert await ledger.access.revoke(key, requested_by="ops")
    assert not await ledger.access.revoke(key, requested_by="ops")
    time = CACHE_SECONDS
    with pytest.raises(Refused, match="key-invalid"):
        await keys(request, ledger)
    [kept] = await ledger.access.list()
    assert kept.revoked_at is not None


async def test_the_secret_of_a_key_is_not_stored(ledger: Ledger, sql: object) -> None:
    secret = (await new_key(ledger, Role.AUDITOR)).split("_", 2)[2]
    [row] = await sql("SELECT * FROM api_keys")  # type: ignore[operator]
    assert secret not in repr(dict(row))
    assert secret.encode() not in row["digest"]
    assert len(row["digest"]) == 32


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("127.0.0.1:8080", None, True),
        ("localhost:8080", None, True),
        ("[::1]:8080", None, True),
        ("localhost:8080", "http://localhost:8080", True),
        ("evil.example", None, False),
        ("evil.example:8080", None, False),
        ("127.0.0.1:8080", "https://evil.example", False),
        ("127.0.0.1:8080", "null", False),
        ("", None, False),
    ],
)
async def test_without_keys_only_this_machine_and_no_web_page_may_call(
    ledger: Ledger, host: str, origin: str | None, *, allowed: bool
) -> None:
    headers = {"host": host, **({"origin": origin} if origin else {})}
    request = Request(method="GET", path="/v1/sessions", headers=headers)
    response = await App(ledger, authenticate=without_keys).respond(request)
    assert response.status == (200 if allowed else 403)


async def test_what_cannot_be_served_is_refused_as_a_problem(api: Api) -> None:
    big = b'{"a": "' + b"x" * (256 * 1024) + b'"}'
    cases = [
        (await api.post("/v1/sessions", big), 413, "body-too-large"),
        (await api.get("/v1/sessions?channelId=" + "x" * 9_000), 414, "url-too-long"),
        (await api.get("/v1/sessions", headers={"X-Filler": "x" * 17_000}), 431, "headers-too-large"),
        (
            await api.post("/v1/sessions", b"{}", headers={"Content-Type": "text/plain"}),
            415,
            "media-type-not-supported",
        ),
        (await api.post("/v1/sessions", b"{}", headers={"Content-Encoding": "gzip"}), 415, "media-type-not-supported"),
        (await api.get("/v1/sessions", headers={"Accept": "image/png"}), 406, "not-acceptable"),
        (await api.call("DELETE", "/v1/sessions"), 405, "method-not-allowed"),
        (await api.get("/v2/sessions"), 404, "route-not-found"),
        (await api.get("/v1/sessions/%FF"), 404, "route-not-found"),
        (await api.get("/v1/sessions/%00"), 422, "invalid-request"),
        (await api.get("/v1/sessions?since=yesterday"), 422, "invalid-request"),
        (await api.get("/v1/sessions?since=0001-01-01T00:00:00%2B14:00"), 422, "invalid-request"),
        (await api.get("/v1/sessions?limit=1&limit=2"), 422, "invalid-request"),
        (await api.post("/v1/sessions", b"{"), 422, "invalid-request"),
        (await api.post("/v1/sessions", b"\xff"), 422, "invalid-request"),
        (await api.post("/v1/exports", b"[" * 100_000, role=Role.PRIVACY), 422, "invalid-request"),
    ]
    for reply, status, code in cases:
        assert (reply.status, reply.headers["Content-Type"]) == (status, "application/problem+json"), reply
        assert (reply.json["code"], reply.json["type"]) == (code, f"/problems/{code}")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Cache-Control"] == "no-store"
    assert cases[6][0].headers["Allow"] == "GET, HEAD, POST"


async def test_too_many_requests_are_refused_until_a_second_has_passed(ledger: Ledger) -> None:
    async with api_of(ledger, limits=ApiLimits(requests_per_second=3)) as api:
        replies = [await api.get("/v1/limits") for _ in range(5)]
    assert replies[0].headers["RateLimit-Policy"] == '"key";q=3;w=1'
    refused = [reply for reply in replies if reply.status == 429]
    assert refused
    assert refused[0].json["code"] == "rate-limited"
    assert refused[0].headers["Retry-After"] == "1"


def test_keys_have_limits_of_their_own() -> None:
    time = 0.0
    admission = Admission(ApiLimits(requests_per_second=2, concurrent_per_key=1), now=lambda: time)
    with admission.admitted("a"):
        with pytest.raises(Refused, match="rate-limited"), admission.admitted("a"):
            pass
        with admission.admitted("b"):
            pass
    with pytest.raises(Refused), admission.admitted("a"):
        pass
    time = 1.0
    with admission.admitted("a"):
        pass


def instance_of(response: Response) -> str:
    """What the log calls the failure."""
    assert isinstance(response.body, bytes)
    return response.body.split(b"urn:uuid:")[1][:36].decode()


async def test_an_unknown_failure_is_answered_with_an_id_that_is_in_the_log(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_asked: Params, _context: Context) -> None:
        raise ValueError("203.0.113.7")

    app = App(ledger, routes=[Route(method="GET", path="/", handler=fail, roles=frozenset())])
    response = await app.respond(Request(method="GET", path="/"))
    assert response.status == 500
    assert isinstance(response.body, bytes)
    assert b"203.0.113.7" not in response.body
    assert instance_of(response) in caplog.text
    assert "203.0.113.7" not in caplog.text


async def test_a_request_that_takes_too_long_is_answered(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    async def wait(_asked: Params, _context: Context) -> None:
        await asyncio.Event().wait()

    routes = [Route(method="GET", path="/", handler=wait, roles=frozenset())]
    app = App(ledger, routes=routes, limits=ApiLimits(seconds=0.01))
    response = await app.respond(Request(method="GET", path="/"))
    assert (response.status, instance_of(response) in caplog.text) == (504, True)


async def test_a_host_can_add_pages_and_its_own_sign_in(ledger: Ledger) -> None:
    async def page(_asked: Params, context: Context) -> Response:
        return Response(headers={"content-type": "text/html", "content-security-policy": "x"}, body=b"<p>hello")

    app = App(ledger, routes=[Route(method="GET", path="/", handler=page)], authenticate=without_keys)
    response = await app.respond(Request(method="GET", path="/", headers={"host": "localhost"}))
    assert (response.status, response.body, response.headers["content-security-policy"]) == (200, b"<p>hello", "x")


async def test_served_alone_it_opens_and_closes_the_ledger_itself(ledger_url: str) -> None:
    application = asgi(Settings(database_url=ledger_url, encryption_key=KEY), authenticate=without_keys)
    async with uvicorn_of(application, lifespan="on") as url, aiohttp.request("GET", f"{url}/v1/limits") as answer:
        assert (answer.status, await answer.json()) == (200, {"items": []})


async def test_a_failed_start_is_reported_to_the_server() -> None:
    application = asgi(Settings(database_url="postgresql://nobody@127.0.0.1:1/none", encryption_key=KEY))
    with pytest.raises(AssertionError, match=r"lifespan\.startup\.failed"):
        async with Asgi(application):
            pass


async def test_without_a_ledger_requests_are_answered_as_not_ready(caplog: pytest.LogCaptureFixture) -> None:
    response = await App().respond(Request(method="GET", path="/v1/limits"))
    assert (response.status, response.headers["retry-after"]) == (503, "1")
    assert instance_of(response) in caplog.text


async def test_nothing_personal_is_in_answers_headers_or_logs(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    marks = {
        "ipAddress": "2001:db8:7e57::51",
        "userAgent": "Rumpelstilzchen/1.0",
        "subjectId": "subject-4d2a",
        "idempotencyKey": "order-9f31",
    }
    opened = await api.post("/v1/sessions", {**GUEST, **marks})
    id_ = opened.json["id"]
    replies = [opened, await api.post("/v1/sessions", {**GUEST, **marks, "channelId": "other"})]
    for route in ROUTES:
        if route.path.endswith("/token"):
            continue  # it is for the guest's token
        path = route.path.replace("{id}", id_).replace("{name}", "nobody")
        body = {"subjectId": marks["subjectId"], "ipAddress": marks["ipAddress"]} if route.method == "POST" else None
        for role in Role:
            replies.append(await api.call(route.method, path, body, role=role))
            replies.append(await api.get(f"{path}?{marks['subjectId']}={marks['ipAddress']}", role=role))
    replies.append(await api.post("/v1/sessions", {**GUEST, "timestamp": marks["subjectId"]}))
    replies.append(await api.post("/v1/sessions", {**GUEST, marks["subjectId"]: 1}))
    replies.append(await api.post(f"/v1/sessions/{id_}/resolve", {"decision": marks["subjectId"], "reason": "x"}))
    token = (await api.post(f"/v1/sessions/{id_}/token")).json["token"]
    assert token
    for mark in (*marks.values(), token):
        for reply in replies:
            assert mark not in reply.body.decode(), (mark, reply)
            assert mark not in repr(reply.headers)
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("guestledger")]
        assert ours
        assert not [line for line in ours if mark in line]
