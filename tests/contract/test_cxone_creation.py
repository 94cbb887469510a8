"""Creating a session (contract, "Session creation" and "Answers that are not success")."""

import asyncio
import json
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.consent import fingerprint
from guestledger.engine.domain.errors import CredentialsRefused, ServiceUnreachable
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.outcomes import Created, Failed, Throttled
from guestledger.engine.domain.request import GuestRequest

KEY = "018f9661-6b8e-7c3a-9d4e-8f1a2b3c4d5e"
CREATED = (
    b'{"sessionId":"sess_9d4e8f1a","token":"gt_7x2k9m4p8q1w","expiresAt":"2024-05-20T15:22:00Z",'
    b'"channelId":"ch_8f3a9b2c","status":"active"}'
)


async def nothing() -> None: ...


async def create(client, session, key=KEY, check=nothing):
    return await client.create(client.prepare(session), key, check)


async def answered_with(raw, client_of, session, answer, **changes):
    async with raw.server(raw.token, answer) as server, client_of(server, **changes) as client:
        return await create(client, session)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


# The request


async def test_the_body_is_the_contracts_letter_for_letter(client_of, nobody, make_session):
    prepared = client_of(nobody).prepare(make_session(attempts=3))
    print_of_guest = make_session().guest.fingerprint
    assert prepared.body == (
        b'{"channelId":"ch_8f3a9b2c",'
        b'"guest":{"metadata":{"source":"web","campaign":"organic","deviceType":"desktop"},'
        b'"consent":{"marketing":false,"dataProcessing":true,"gdprCompliant":true,'
        b'"consentTimestamp":"2024-05-20T14:22:00Z"}},'
        b'"attributes":{"visitorFingerprint":"' + print_of_guest.encode() + b'",'
        b'"initializationLatency":0,"retryCount":3}}'
    )
    assert prepared.sha256 == sha256(prepared.body).hexdigest()


async def test_the_fingerprint_is_made_of_the_guests_own_values(client_of, nobody, make_session):
    request = GuestRequest(
        channel_id="ch_1", ip_address="203.0.113.7", user_agent="Mozilla/5.0 …", timestamp="2024-05-20T14:21:59+00:00"
    )
    guest = replace(make_session().guest, fingerprint=fingerprint(request))
    sent = json.loads(client_of(nobody).prepare(make_session(guest=guest)).body)
    expected = sha256("203.0.113.7:Mozilla/5.0 …:2024-05-20T14:21:59+00:00".encode()).hexdigest()
    assert sent["attributes"]["visitorFingerprint"] == expected


async def test_the_consent_timestamp_is_in_utc_whole_seconds(client_of, nobody, make_session):
    moment = datetime(2024, 5, 20, 16, 22, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    consent = replace(make_session().consent, timestamp=moment)
    sent = json.loads(client_of(nobody).prepare(make_session(consent=consent)).body)
    assert sent["guest"]["consent"]["consentTimestamp"] == "2024-05-20T14:22:00Z"


async def test_the_request_carries_token_key_and_type(raw, client_of, session):
    async with raw.server(raw.token, raw.http(201, CREATED)) as server, client_of(server) as client:
        await create(client, session)
        head, _, body = server.requests[1].partition(b"\r\n\r\n")
        assert body == client.prepare(session).body
    assert head.startswith(b"POST /api/v1/chat/sessions HTTP/1.1\r\n")
    lines = head.split(b"\r\n")
    assert b"Authorization: Bearer raw-token" in lines
    assert b"Idempotency-Key: " + KEY.encode() in lines
    assert b"Content-Type: application/json" in lines
    assert not [line for line in lines if line.lower().startswith((b"cookie", b"expect", b"transfer-encoding"))]


async def test_a_path_before_the_api_is_kept(raw, client_of, session):
    async with raw.server(raw.token, raw.http(201, CREATED)) as server:
        behind_prefix = SimpleNamespace(url=f"{server.url}/tenant%20a/")
        async with client_of(behind_prefix) as client:
            await create(client, session)
    assert server.requests[0].startswith(b"POST /tenant%20a/oauth/token ")
    assert server.requests[1].startswith(b"POST /tenant%20a/api/v1/chat/sessions ")


async def test_the_environments_proxy_is_not_used(simulator, client_of, session, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with client_of(simulator) as client:
        assert isinstance(await create(client, session), Created)


# Success


@pytest.mark.parametrize("status", [200, 201])
async def test_an_answer_becomes_a_created_session(raw, client_of, session, status):
    made = await answered_with(raw, client_of, session, raw.http(status, CREATED))
    assert isinstance(made, Created)
    assert (made.session_id, made.guest_token, made.status) == ("sess_9d4e8f1a", "gt_7x2k9m4p8q1w", "active")
    assert made.expires_at == datetime(2024, 5, 20, 15, 22, tzinfo=UTC)
    assert made.latency_ms >= 0


async def test_an_expiry_with_an_offset_is_told_in_utc(raw, client_of, session):
    body = CREATED.replace(b"2024-05-20T15:22:00Z", b"2024-05-20T17:22:00.5+02:00")
    made = await answered_with(raw, client_of, session, raw.http(201, body))
    assert made.expires_at == datetime(2024, 5, 20, 15, 22, 0, 500_000, tzinfo=UTC)
    assert made.expires_at.tzinfo is UTC


async def test_fields_that_are_not_known_are_passed_over(raw, client_of, session):
    body = CREATED.replace(b"{", b'{"new":{"deep":[1,null]},', 1)
    assert isinstance(await answered_with(raw, client_of, session, raw.http(201, body)), Created)


async def test_a_tenants_own_field_names_are_read(raw, client_of, session, patient):
    profile = replace(patient, session_fields=replace(patient.session_fields, session_id="id", token="jwt"))
    body = CREATED.replace(b'"sessionId"', b'"id"').replace(b'"token"', b'"jwt"')
    made = await answered_with(raw, client_of, session, raw.http(201, body), profile=profile)
    assert (made.session_id, made.guest_token) == ("sess_9d4e8f1a", "gt_7x2k9m4p8q1w")


async def test_the_guest_token_is_not_in_the_outcomes_repr(raw, client_of, session):
    assert "gt_7x2k9m4p8q1w" not in repr(await answered_with(raw, client_of, session, raw.http(201, CREATED)))


# 401, 403


async def test_a_revoked_token_is_replaced_and_the_attempt_replayed_once(simulator, client_of, session):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.revoke_tokens()
        assert isinstance(await create(client, session), Created)
    assert simulator.counts == {"token 200": 2, "session 401": 1, "session 201": 1}
    refused, replayed = (sent for sent in simulator.requests if sent.path.endswith("/sessions"))
    assert (refused.key, refused.body) == (replayed.key, replayed.body) == (KEY, client.prepare(session).body)


async def test_a_second_401_is_final(client_of, session):
    async with Simulator(SimulatorConfig(refuse_tokens=True)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert (failed.kind, failed.status) == (FailureKind.UNAUTHORIZED, 401)
    assert failed.message.startswith("Authentication token expired. Refresh required.")
    assert simulator.counts == {"token 200": 2, "session 401": 2}


@pytest.mark.parametrize(
    ("refusal", "error"), [(429, ServiceUnreachable), (503, ServiceUnreachable), (401, CredentialsRefused)]
)
async def test_a_refresh_that_fails_after_a_401_is_no_outcome_of_the_creation_which_has_made_nothing(
    raw, client_of, session, refusal, error
):
    answers = raw.token, raw.http(401), raw.http(refusal, b"", "Retry-After: 30")
    async with raw.server(*answers) as server, client_of(server) as client:
        with pytest.raises(error):
            await create(client, session)
    assert len([sent for sent in server.requests if b"/sessions" in sent]) == 1


@pytest.mark.parametrize("at_hand", [True, False])
async def test_a_creation_is_checked_each_time_that_it_is_sent_when_there_is_a_token(
    simulator, client_of, session, at_hand
):
    async def check():
        seen.append((simulator.counts["token 200"], simulator.counts["session 401"]))

    seen = []
    async with client_of(simulator) as client:
        if at_hand:
            await client.ready()
            simulator.revoke_tokens()
        await create(client, session, check=check)
    assert seen == ([(1, 0), (2, 1)] if at_hand else [(1, 0)])


async def test_a_403_names_the_scope_to_check(client_of, session):
    async with (
        Simulator(SimulatorConfig(missing_scopes=frozenset({"chat:write"}))) as simulator,
        client_of(simulator) as client,
    ):
        failed = await create(client, session)
    assert (failed.kind, failed.status) == (FailureKind.FORBIDDEN, 403)
    assert "chat:write" in failed.message


# 429


@pytest.mark.parametrize(
    ("form", "ms"),
    [
        ("seconds", 7_000),
        ("date", 7_000),
        ("absent", 2_000),
        ("negative", 2_000),
        ("nonsense", 2_000),
        ("huge", 10 * 365 * 24 * 3_600_000),
        ("0", 0),
        ("60.0", 60_000),
        (" 3 ", 3_000),
        ("Mon, 20 May 2024 14:22:00 GMT", 0),
    ],
)
async def test_every_form_of_retry_after_is_read(client_of, session, form, ms):
    config = SimulatorConfig(throttle_share=1, retry_after=form, retry_after_s=7)
    # The engine's clock is days off: a date is read against the server's own.
    clock = datetime(2020, 1, 1, tzinfo=UTC)
    async with Simulator(config) as simulator, client_of(simulator, now=lambda: clock) as client:
        throttled = await create(client, session)
        made = await create(client, session)
    assert isinstance(throttled, Throttled)
    assert (throttled.status, throttled.retry_after.ms) == (429, ms)
    assert isinstance(made, Created)


async def test_of_several_lines_of_retry_after_the_longest_counts(raw, client_of, session):
    later = "Retry-After: Mon, 20 May 2024 14:01:00 GMT", "Date: Mon, 20 May 2024 14:00:00 GMT"
    answer = raw.http(429, b"", "Retry-After: 1", *later, "retry-after: 30")
    assert (await answered_with(raw, client_of, session, answer)).retry_after.ms == 60_000


async def test_a_retry_after_that_is_not_text_is_read_as_nonsense(raw, client_of, session):
    answer = raw.http(429, b"", "Retry-After: XY").replace(b"XY", b"\xff\xfe")
    throttled = await answered_with(raw, client_of, session, answer)
    assert throttled.retry_after.ms == 2_000
    assert throttled.retry_after.given.encode()


async def test_a_429_whose_body_is_cut_short_is_still_a_429(raw, client_of, session):
    answer = b"HTTP/1.1 429 x\r\nRetry-After: 9\r\nContent-Length: 1000\r\n\r\n{"
    assert (await answered_with(raw, client_of, session, answer)).retry_after.ms == 9_000


async def test_a_drained_quota_is_read_also_where_others_stand_on_lines_before_it(raw, client_of, session):
    policies = 'RateLimit-Policy: "second";q=10;w=1', 'RateLimit-Policy: "hour";q=3600;w=3600'
    left = 'RateLimit: "second";r=3;t=1', 'RateLimit: "hour";r=0;t=90'
    made = await answered_with(raw, client_of, session, raw.http(201, CREATED, *policies, *left))
    assert (made.drained.ms, made.drained.per_second) == (90_000, 1.0)


@pytest.mark.parametrize("answer", [(201, b"{}"), (204, b""), (201, CREATED[:-1]), (400, b""), (429, b""), (503, b"")])
async def test_a_drained_quota_is_heard_whatever_else_the_answer_is(raw, client_of, session, answer):
    outcome = await answered_with(raw, client_of, session, raw.http(*answer, 'RateLimit: "hour";r=0;t=30'))
    assert outcome.drained.ms == 30_000


# 5xx and other refusals


async def test_a_5xx_leaves_the_session_in_doubt(client_of, session):
    async with Simulator(SimulatorConfig(server_error_share=1)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert (failed.kind, failed.status) == (FailureKind.IN_DOUBT, 500)


@pytest.mark.parametrize(
    ("status", "kind"), [(408, "in_doubt"), (425, "unavailable"), (500, "in_doubt"), (503, "in_doubt")]
)
@pytest.mark.parametrize(("given", "ms"), [("60", 60_000), ("Mon, 20 May 2024 14:01:00 GMT", 60_000), ("soon", 2_000)])
async def test_a_failure_that_may_pass_says_when_it_is_to_be_tried_again(
    raw, client_of, session, status, kind, given, ms
):
    answer = raw.http(status, b"", f"Retry-After: {given}", "Date: Mon, 20 May 2024 14:00:00 GMT")
    failed = await answered_with(raw, client_of, session, answer)
    assert (failed.kind, failed.status) == (kind, status)
    assert (failed.retry_after.given, failed.retry_after.ms) == (given, ms)


@pytest.mark.parametrize("answer", [(503,), (400, b"", "Retry-After: 60"), (302, b"", "Retry-After: 60")])
async def test_without_retry_after_and_where_all_is_over_nothing_is_said_of_a_next_time(
    raw, client_of, session, answer
):
    assert (await answered_with(raw, client_of, session, raw.http(*answer))).retry_after is None


async def test_a_5xx_leaves_nothing_in_doubt_where_the_profile_says_so(client_of, session, patient):
    profile = replace(patient, server_error_in_doubt=False)
    async with Simulator(SimulatorConfig(server_error_share=1)) as simulator, client_of(simulator, profile) as client:
        failed = await create(client, session)
    assert (failed.kind, failed.status) == (FailureKind.UNAVAILABLE, 500)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, FailureKind.REJECTED),
        (307, FailureKind.REJECTED),
        (400, FailureKind.REJECTED),
        (404, FailureKind.REJECTED),
        (408, FailureKind.IN_DOUBT),
        (409, FailureKind.REJECTED),
        (422, FailureKind.REJECTED),
        (425, FailureKind.UNAVAILABLE),
        (503, FailureKind.IN_DOUBT),
        (599, FailureKind.IN_DOUBT),
    ],
)
async def test_every_other_status_says_what_came_of_the_attempt(raw, client_of, session, status, kind):
    answer = raw.http(status, b'{"message":"the reason"}', "Location: /elsewhere")
    failed = await answered_with(raw, client_of, session, answer)
    assert (failed.kind, failed.status) == (kind, status)
    assert f"HTTP {status}" in failed.message
    assert "the reason" in failed.message


async def test_a_redirect_is_not_followed(raw, client_of, session):
    async with (
        raw.server(raw.token, raw.http(307, b"", "Location: /elsewhere"), raw.http(201, CREATED)) as server,
        client_of(server) as client,
    ):
        failed = await create(client, session)
    assert "redirect" in failed.message
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("config", "changes", "status"),
    [
        (SimulatorConfig(), {"channel_id": "ch_unknown"}, 404),
        (SimulatorConfig(inactive_channels=frozenset({"ch_8f3a9b2c"})), {}, 422),
    ],
)
async def test_a_channel_that_takes_no_session_is_a_rejection(client_of, make_session, config, changes, status):
    async with Simulator(config) as simulator, client_of(simulator) as client:
        failed = await create(client, make_session(**changes))
    assert (failed.kind, failed.status) == (FailureKind.REJECTED, status)


# What the server says


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message":"plain"}', "plain"),
        (b'{"error":"code","error_description":"words"}', "words"),
        (b'{"message":"","error":"code"}', "code"),
        (b'{"message":{"not":"text"}}', None),
        (b"<html>", None),
        (b"\xff", None),
        (b"[1]", None),
        (b"[" * 60_000, None),
        (b'{"message":"two\\nlines\\u0000\\u202e"}', "two lines"),
    ],
)
async def test_the_servers_message_is_one_clean_line(raw, client_of, session, body, said):
    failed = await answered_with(raw, client_of, session, raw.http(400, body))
    assert failed.message.isprintable()
    assert failed.message == "CXone rejected the session creation (HTTP 400)" + (f": {said}" if said else "")


async def test_the_servers_message_is_cut_to_200_characters(raw, client_of, session):
    failed = await answered_with(raw, client_of, session, raw.http(400, b'{"message":"' + b"x" * 5_000 + b'"}'))
    assert failed.message.count("x") == 200 + "CXone".count("x")


@pytest.mark.parametrize("where", ["{}", "at the end of a long line " + "." * 160 + " {}"])
async def test_the_servers_message_gives_no_secret_away(raw, client_of, session, where):
    guest_print = session.guest.fingerprint
    for secret in (guest_print, guest_print.upper(), guest_print[:40], "raw-token", "Bearer other", "eyJh.eyJi.c"):
        body = json.dumps({"message": where.format(secret)}).encode()
        failed = await answered_with(raw, client_of, session, raw.http(400, body))
        assert secret not in failed.message
        assert secret[:24] not in failed.message


# Lost answers


def lost(outcome) -> tuple[FailureKind, int | None]:
    assert isinstance(outcome, Failed)
    return outcome.kind, outcome.status


async def test_a_refused_connection_is_unsent(nobody, client_of, session, with_token):
    async with client_of(nobody) as client:
        with_token(client)
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.UNSENT, None)
    assert "refused" in failed.message


async def test_a_host_without_address_is_unsent(client_of, session, with_token, quick):
    async with client_of(SimpleNamespace(url="http://no-such-host.invalid"), quick) as client:
        with_token(client)
        assert lost(await create(client, session)) == (FailureKind.UNSENT, None)


async def test_a_tls_handshake_that_fails_is_unsent(raw, client_of, session, with_token):
    async with raw.server(raw.token) as server:
        behind_tls = SimpleNamespace(url=server.url.replace("http:", "https:"))
        async with client_of(behind_tls) as client:
            with_token(client)
            failed = await create(client, session)
    assert lost(failed) == (FailureKind.UNSENT, None)


async def test_waiting_in_vain_for_a_free_connection_is_unsent(client_of, session, quick):
    async with (
        Simulator(SimulatorConfig(hang_share=1)) as simulator,
        client_of(simulator, quick, connections=1) as client,
    ):
        await client.ready()
        first = asyncio.create_task(create(client, session, "first"))
        await asyncio.sleep(0)
        second = await create(client, session, "second")
        await first
    assert lost(second) == (FailureKind.UNSENT, None)
    assert "second" not in simulator.sessions_by_key


async def test_a_connection_dropped_after_processing_is_in_doubt(client_of, session):
    async with Simulator(SimulatorConfig(drop_share=1)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert len(simulator.sessions_by_key[KEY]) == 1


async def test_a_connection_dropped_before_processing_looks_the_same_from_here(client_of, session):
    async with Simulator(SimulatorConfig(drop_before_share=1)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert KEY not in simulator.sessions_by_key


async def test_a_connection_reset_after_the_request_is_in_doubt(raw, client_of, session):
    async with raw.server(raw.token, raw.reset) as server, client_of(server) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert len(server.requests) == 2


async def test_a_creation_is_never_sent_again_by_the_http_library(client_of, session):
    async with Simulator(SimulatorConfig(drop_share=1, fault_times=9)) as simulator, client_of(simulator) as client:
        await create(client, session)
    assert simulator.counts["session 0"] == 1


async def test_an_answer_that_never_comes_is_in_doubt(client_of, session, quick):
    async with Simulator(SimulatorConfig(hang_share=1)) as simulator, client_of(simulator, quick) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert "250 ms" in failed.message
    assert len(simulator.sessions_by_key[KEY]) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
    ],
    ids=["nothing", "another protocol", "no status"],
)
async def test_what_is_not_http_is_in_doubt(raw, client_of, session, answer):
    assert lost(await answered_with(raw, client_of, session, answer)) == (FailureKind.IN_DOUBT, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        CREATED[:-1],
        CREATED.replace(b"sess_9d4e8f1a", b""),
        CREATED.replace(b"sess_9d4e8f1a", b"sess\\u0000"),
        CREATED.replace(b"15:22:00Z", b"15:22:00"),
        CREATED.replace(b"2024-05-20T15:22:00Z", b"tomorrow"),
        CREATED.replace(b"2024-05-20T15:22:00Z", b"9999-12-31T23:59:59-01:00"),
        CREATED.replace(b'"gt_7x2k9m4p8q1w"', b"null"),
        CREATED + b" " * 70_000,
    ],
)
async def test_a_success_that_cannot_be_read_is_in_doubt(raw, client_of, session, body):
    failed = await answered_with(raw, client_of, session, raw.http(201, body))
    assert lost(failed) == (FailureKind.IN_DOUBT, 201)
    assert "cannot be read" in failed.message
    assert "gt_7x2k9m4p8q1w" not in failed.message


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 x\r\nContent-Length: 1000\r\n\r\n" + CREATED,
        b"HTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + CREATED,
        b"HTTP/1.1 201 x\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
    ],
    ids=["cut short", "broken chunk", "broken gzip"],
)
async def test_a_success_whose_body_is_broken_is_in_doubt(raw, client_of, session, answer):
    kind, _ = lost(await answered_with(raw, client_of, session, answer))
    assert kind is FailureKind.IN_DOUBT


async def test_without_a_token_a_creation_is_not_sent_which_is_no_outcome_of_it(nobody, client_of, session):
    async with client_of(nobody) as client:
        with pytest.raises(ServiceUnreachable):
            await create(client, session)


async def test_cancellation_passes_and_leaves_the_client_in_order(client_of, session):
    async with Simulator(SimulatorConfig(hang_share=1)) as simulator, client_of(simulator) as client:
        creating = asyncio.create_task(create(client, session))
        await until(lambda: simulator.sessions_by_key)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert isinstance(await create(client, session), Created)


# The key


async def test_the_same_key_gives_the_same_session_where_the_server_honours_it(client_of, session):
    async with Simulator(SimulatorConfig(drop_share=1)) as simulator, client_of(simulator) as client:
        await create(client, session)
        made = await create(client, session)
    assert [one.session_id for one in simulator.sessions_by_key[KEY]] == [made.session_id]


async def test_the_same_key_gives_a_second_session_where_the_server_does_not(client_of, session):
    async with (
        Simulator(SimulatorConfig(drop_share=1, honour_idempotency_key=False)) as simulator,
        client_of(simulator) as client,
    ):
        await create(client, session)
        made = await create(client, session)
    _, second = simulator.sessions_by_key[KEY]
    assert second.session_id == made.session_id
