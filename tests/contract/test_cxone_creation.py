"""Creating a session (contract, "Session creation" and "Answers that are not success")."""

import asyncio
import hmac
import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.consent import fingerprint
from guestledger.engine.domain.errors import CredentialsRefused, ServiceUnreachable
from guestledger.engine.domain.outcomes import Created, Failed, FailureKind, Throttled
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.limits.feedback import Observation
from guestledger.engine.limits.retry import WaitBasis
from tests.unit.samples import HMAC_KEY

KEY = "018f9661-6b8e-7c3a-9d4e-8f1a2b3c4d5e"
CREATED = (
    b'{"sessionId":"sess_9d4e8f1a","token":"gt_7x2k9m4p8q1w","expiresAt":"2024-05-20T15:22:00Z",'
    b'"channelId":"ch_8f3a9b2c","status":"active"}'
)


async def nothing() -> None: ...


async def create(client, session, key=KEY, before_send=nothing):
    return await client.create(client.prepare(session), key, before_send)


async def answered_with(raw, client_of, session, answer, **changes):
    async with raw.server(raw.token, answer) as server, client_of(server, **changes) as client:
        return await create(client, session)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


# The request


async def test_body_is_the_contracts_byte_for_byte(client_of, nobody, make_session):
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


async def test_request_hash_covers_method_url_and_body(client_of, nobody, session):
    prepared = client_of(nobody).prepare(session)
    request = f"POST {nobody.url}/api/v1/chat/sessions\n".encode() + prepared.body
    assert prepared.request_hmac == hmac.digest(bytes.fromhex(HMAC_KEY), request, "sha256").hex()


@pytest.mark.parametrize("key", ["", "5a" * 31])
async def test_no_request_is_hashed_under_a_key_that_can_be_guessed(client_of, nobody, session, key):
    weak = replace(session, guest=replace(session.guest, hmac_key=key))
    with pytest.raises(ValueError, match="32 bytes"):
        client_of(nobody).prepare(weak)


async def test_fingerprint_uses_the_guests_own_values(client_of, nobody, make_session):
    request = GuestRequest(
        channel_id="ch_1", ip_address="203.0.113.7", user_agent="Mozilla/5.0 …", timestamp="2024-05-20T14:21:59+00:00"
    )
    guest = replace(make_session().guest, fingerprint=fingerprint(request))
    sent = json.loads(client_of(nobody).prepare(make_session(guest=guest)).body)
    expected = sha256("203.0.113.7:Mozilla/5.0 …:2024-05-20T14:21:59+00:00".encode()).hexdigest()
    assert sent["attributes"]["visitorFingerprint"] == expected


async def test_consent_timestamp_is_in_utc_whole_seconds(client_of, nobody, make_session):
    moment = datetime(2024, 5, 20, 16, 22, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    consent = replace(make_session().consent, timestamp=moment)
    sent = json.loads(client_of(nobody).prepare(make_session(consent=consent)).body)
    assert sent["guest"]["consent"]["consentTimestamp"] == "2024-05-20T14:22:00Z"


async def test_request_has_token_key_and_type(raw, client_of, session):
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


async def test_path_prefix_of_the_api_is_kept(raw, client_of, session):
    async with raw.server(raw.token, raw.http(201, CREATED)) as server:
        behind_prefix = SimpleNamespace(url=f"{server.url}/tenant%20a/")
        async with client_of(behind_prefix) as client:
            await create(client, session)
    assert server.requests[0].startswith(b"POST /tenant%20a/oauth/token ")
    assert server.requests[1].startswith(b"POST /tenant%20a/api/v1/chat/sessions ")


async def test_environment_proxy_is_not_used(simulator, client_of, session, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with client_of(simulator) as client:
        assert isinstance(await create(client, session), Created)


# Success


@pytest.mark.parametrize("status", [200, 201])
async def test_answer_becomes_a_created_session(raw, client_of, session, status):
    made = await answered_with(raw, client_of, session, raw.http(status, CREATED))
    assert isinstance(made, Created)
    assert (made.session_id, made.guest_token, made.status) == ("sess_9d4e8f1a", "gt_7x2k9m4p8q1w", "active")
    assert made.expires_at == datetime(2024, 5, 20, 15, 22, tzinfo=UTC)
    assert made.latency_ms >= 0


async def test_wait_before_the_sending_is_no_latency(client_of, simulator, session, monkeypatch):
    clock = itertools.count()  # a second passes at each look
    monkeypatch.setattr("guestledger.adapters.cxone.client.time.perf_counter", lambda: next(clock))

    async def before_send():
        for _ in range(1_000):
            next(clock)

    async with client_of(simulator) as client:
        made = await create(client, session, before_send=before_send)
    assert made.latency_ms < 1_000_000


async def test_expiry_with_an_offset_is_converted_to_utc(raw, client_of, session):
    body = CREATED.replace(b"2024-05-20T15:22:00Z", b"2024-05-20T17:22:00.5+02:00")
    made = await answered_with(raw, client_of, session, raw.http(201, body))
    assert made.expires_at == datetime(2024, 5, 20, 15, 22, 0, 500_000, tzinfo=UTC)
    assert made.expires_at.tzinfo is UTC


async def test_unknown_fields_are_ignored(raw, client_of, session):
    body = CREATED.replace(b"{", b'{"new":{"deep":[1,null]},', 1)
    assert isinstance(await answered_with(raw, client_of, session, raw.http(201, body)), Created)


async def test_tenants_own_field_names_are_read(raw, client_of, session, patient):
    profile = replace(patient, session_fields=replace(patient.session_fields, session_id="id", token="jwt"))
    body = CREATED.replace(b'"sessionId"', b'"id"').replace(b'"token"', b'"jwt"')
    made = await answered_with(raw, client_of, session, raw.http(201, body), profile=profile)
    assert (made.session_id, made.guest_token) == ("sess_9d4e8f1a", "gt_7x2k9m4p8q1w")


async def test_repr_of_the_outcome_hides_the_guest_token(raw, client_of, session):
    assert "gt_7x2k9m4p8q1w" not in repr(await answered_with(raw, client_of, session, raw.http(201, CREATED)))


# 401, 403


async def test_attempt_is_replayed_once_after_a_revoked_token(simulator, client_of, session):
    async with client_of(simulator) as client:
        await client.ready()
        simulator.revoke_tokens()
        assert isinstance(await create(client, session), Created)
    assert simulator.counts == {"token 200": 2, "session 401": 1, "session 201": 1}
    refused, replayed = (sent for sent in simulator.requests if sent.path.endswith("/sessions"))
    assert (refused.key, refused.body) == (replayed.key, replayed.body) == (KEY, client.prepare(session).body)


async def test_second_401_is_final(client_of, session):
    async with Simulator(SimulatorConfig(refuse_tokens=True)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert (failed.kind, failed.cause, failed.status) == (FailureKind.FINAL, Cause.UNAUTHORIZED, 401)
    assert failed.observation is Observation.SUCCESS
    assert simulator.counts == {"token 200": 2, "session 401": 2}


@pytest.mark.parametrize(
    ("refusal", "error"), [(429, ServiceUnreachable), (503, ServiceUnreachable), (401, CredentialsRefused)]
)
async def test_failed_token_refresh_after_a_401_raises(raw, client_of, session, refusal, error):
    answers = raw.token, raw.http(401), raw.http(refusal, b"", "Retry-After: 30")
    async with raw.server(*answers) as server, client_of(server) as client:
        with pytest.raises(error):
            await create(client, session)
    assert len([sent for sent in server.requests if b"/sessions" in sent]) == 1


@pytest.mark.parametrize("at_hand", [True, False])
async def test_before_send_is_awaited_before_each_send(simulator, client_of, session, at_hand):
    async def before_send():
        seen.append((simulator.counts["token 200"], simulator.counts["session 401"]))

    seen = []
    async with client_of(simulator) as client:
        if at_hand:
            await client.ready()
            simulator.revoke_tokens()
        await create(client, session, before_send=before_send)
    assert seen == ([(1, 0), (2, 1)] if at_hand else [(1, 0)])


async def test_403_names_the_scope_to_check(client_of, session):
    async with (
        Simulator(SimulatorConfig(missing_scopes=frozenset({"chat:write"}))) as simulator,
        client_of(simulator) as client,
    ):
        failed = await create(client, session)
    assert (failed.kind, failed.cause, failed.status) == (FailureKind.FINAL, Cause.FORBIDDEN, 403)
    assert failed.detail == "chat:write: the client may not do this"


async def test_401_with_an_exhausted_quota_is_not_replayed(raw, client_of, session):
    refused = raw.http(401, b"", 'RateLimit: "hour";r=0;t=30')
    async with raw.server(raw.token, refused) as server, client_of(server) as client:
        failed = await create(client, session)
        assert not client.is_ready
    assert (failed.kind, failed.cause, failed.status) == (FailureKind.UNAVAILABLE, Cause.TOKEN_REFUSED, 401)
    assert (failed.exhausted.ms, failed.observation) == (30_000, Observation.SUCCESS)
    assert len(server.requests) == 2


# 429


@pytest.mark.parametrize(
    ("form", "ms", "basis"),
    [
        ("seconds", 7_000, WaitBasis.RETRY_AFTER),
        ("date", 7_000, WaitBasis.RETRY_AFTER_DATE),
        ("absent", 2_000, WaitBasis.RETRY_AFTER_MISSING),
        ("negative", 2_000, WaitBasis.RETRY_AFTER_UNREADABLE),
        ("nonsense", 2_000, WaitBasis.RETRY_AFTER_UNREADABLE),
        ("huge", 1_800_000, WaitBasis.RETRY_AFTER_CAPPED),
        ("0", 0, WaitBasis.RETRY_AFTER),
        ("60.0", 60_000, WaitBasis.RETRY_AFTER),
        (" 3 ", 3_000, WaitBasis.RETRY_AFTER),
        ("Mon, 20 May 2024 14:22:00 GMT", 0, WaitBasis.RETRY_AFTER_DATE),
    ],
)
async def test_every_form_of_retry_after_is_read(client_of, session, form, ms, basis):
    config = SimulatorConfig(throttle_share=1, retry_after=form, retry_after_s=7)
    # Years behind: a date is read relative to the server's own clock.
    clock = datetime(2020, 1, 1, tzinfo=UTC)
    async with Simulator(config) as simulator, client_of(simulator, now=lambda: clock) as client:
        throttled = await create(client, session)
        made = await create(client, session)
    assert isinstance(throttled, Throttled)
    assert (throttled.status, throttled.retry_after.ms, throttled.retry_after.basis) == (429, ms, basis)
    assert isinstance(made, Created)


async def test_longest_of_several_retry_after_lines_counts(raw, client_of, session):
    later = "Retry-After: Mon, 20 May 2024 14:01:00 GMT", "Date: Mon, 20 May 2024 14:00:00 GMT"
    answer = raw.http(429, b"", "Retry-After: 1", *later, "retry-after: 30")
    assert (await answered_with(raw, client_of, session, answer)).retry_after.ms == 60_000


async def test_retry_after_that_is_not_text_is_unreadable(raw, client_of, session):
    answer = raw.http(429, b"", "Retry-After: XY").replace(b"XY", b"\xff\xfe")
    throttled = await answered_with(raw, client_of, session, answer)
    assert throttled.retry_after.ms == 2_000
    assert throttled.retry_after.given.encode()


async def test_429_with_an_incomplete_body_is_still_a_429(raw, client_of, session):
    answer = b"HTTP/1.1 429 x\r\nRetry-After: 9\r\nContent-Length: 1000\r\n\r\n{"
    assert (await answered_with(raw, client_of, session, answer)).retry_after.ms == 9_000


async def test_exhausted_quota_is_read_from_several_lines(raw, client_of, session):
    policies = 'RateLimit-Policy: "second";q=10;w=1', 'RateLimit-Policy: "hour";q=3600;w=3600'
    left = 'RateLimit: "second";r=3;t=1', 'RateLimit: "hour";r=0;t=90'
    made = await answered_with(raw, client_of, session, raw.http(201, CREATED, *policies, *left))
    assert (made.exhausted.ms, made.exhausted.per_second) == (90_000, 1.0)


@pytest.mark.parametrize("answer", [(201, b"{}"), (204, b""), (201, CREATED[:-1]), (400, b""), (429, b""), (503, b"")])
async def test_exhausted_quota_is_read_from_every_answer(raw, client_of, session, answer):
    outcome = await answered_with(raw, client_of, session, raw.http(*answer, 'RateLimit: "hour";r=0;t=30'))
    assert outcome.exhausted.ms == 30_000


# 5xx and other refusals


async def test_5xx_leaves_the_session_in_doubt(client_of, session):
    async with Simulator(SimulatorConfig(server_error_share=1)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert (failed.kind, failed.cause, failed.status) == (FailureKind.IN_DOUBT, Cause.SERVER_ERROR, 500)
    assert failed.observation is Observation.FAILED


@pytest.mark.parametrize(
    ("status", "kind"), [(408, "in_doubt"), (425, "unavailable"), (500, "in_doubt"), (503, "in_doubt")]
)
@pytest.mark.parametrize(("given", "ms"), [("60", 60_000), ("Mon, 20 May 2024 14:01:00 GMT", 60_000), ("soon", 2_000)])
async def test_retryable_failure_says_how_long_to_wait(raw, client_of, session, status, kind, given, ms):
    answer = raw.http(status, b"", f"Retry-After: {given}", "Date: Mon, 20 May 2024 14:00:00 GMT")
    failed = await answered_with(raw, client_of, session, answer)
    assert (failed.kind, failed.status) == (kind, status)
    assert (failed.retry_after.given, failed.retry_after.ms) == (given, ms)


@pytest.mark.parametrize("answer", [(503,), (400, b"", "Retry-After: 60"), (302, b"", "Retry-After: 60")])
async def test_no_wait_without_retry_after_or_after_a_final_failure(raw, client_of, session, answer):
    assert (await answered_with(raw, client_of, session, raw.http(*answer))).retry_after is None


async def test_profile_can_exclude_doubt_after_a_5xx(client_of, session, patient):
    profile = replace(patient, server_error_in_doubt=False)
    async with Simulator(SimulatorConfig(server_error_share=1)) as simulator, client_of(simulator, profile) as client:
        failed = await create(client, session)
    assert (failed.kind, failed.status) == (FailureKind.UNAVAILABLE, 500)


@pytest.mark.parametrize(
    ("status", "kind", "cause", "observation"),
    [
        (301, FailureKind.FINAL, Cause.REDIRECTED, Observation.SUCCESS),
        (307, FailureKind.FINAL, Cause.REDIRECTED, Observation.SUCCESS),
        (400, FailureKind.FINAL, Cause.REJECTED, Observation.SUCCESS),
        (404, FailureKind.FINAL, Cause.REJECTED, Observation.SUCCESS),
        (408, FailureKind.IN_DOUBT, Cause.REQUEST_TIMEOUT, Observation.FAILED),
        (409, FailureKind.FINAL, Cause.REJECTED, Observation.SUCCESS),
        (422, FailureKind.FINAL, Cause.REJECTED, Observation.SUCCESS),
        (425, FailureKind.UNAVAILABLE, Cause.TOO_EARLY, Observation.FAILED),
        (503, FailureKind.IN_DOUBT, Cause.SERVER_ERROR, Observation.FAILED),
        (599, FailureKind.IN_DOUBT, Cause.SERVER_ERROR, Observation.FAILED),
    ],
)
async def test_every_other_status_has_its_meaning(raw, client_of, session, status, kind, cause, observation):
    answer = raw.http(status, b'{"message":"the reason"}', "Location: /elsewhere")
    failed = await answered_with(raw, client_of, session, answer)
    assert (failed.kind, failed.cause, failed.status) == (kind, cause, status)
    assert (failed.detail, failed.observation) == ("the reason", observation)


async def test_redirect_is_not_followed(raw, client_of, session):
    async with (
        raw.server(raw.token, raw.http(307, b"", "Location: /elsewhere"), raw.http(201, CREATED)) as server,
        client_of(server) as client,
    ):
        failed = await create(client, session)
    assert failed.cause is Cause.REDIRECTED
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("config", "changes", "status"),
    [
        (SimulatorConfig(), {"channel_id": "ch_unknown"}, 404),
        (SimulatorConfig(inactive_channels=frozenset({"ch_8f3a9b2c"})), {}, 422),
    ],
)
async def test_channel_that_takes_no_session_is_a_rejection(client_of, make_session, config, changes, status):
    async with Simulator(config) as simulator, client_of(simulator) as client:
        failed = await create(client, make_session(**changes))
    assert (failed.kind, failed.cause, failed.status) == (FailureKind.FINAL, Cause.REJECTED, status)


# The server's message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message":"plain"}', "plain"),
        (b'{"error":"code","error_description":"words"}', "words"),
        (b'{"message":"","error":"code"}', "code"),
        (b'{"message":{"not":"text"}}', ""),
        (b"<html>", ""),
        (b"\xff", ""),
        (b"[1]", ""),
        (b"[" * 60_000, ""),
        (b'{"message":"two\\nlines\\u0000\\u202e"}', "two lines"),
    ],
)
async def test_server_message_is_one_clean_line(raw, client_of, session, body, said):
    failed = await answered_with(raw, client_of, session, raw.http(400, body))
    assert failed.detail == said


async def test_server_message_has_at_most_200_characters(raw, client_of, session):
    failed = await answered_with(raw, client_of, session, raw.http(400, b'{"message":"' + b"x" * 5_000 + b'"}'))
    assert failed.detail == "x" * 200


@pytest.mark.parametrize("words", ["-eyJ", "bearer ", "a" * 32 + " ", "\u202e"])
async def test_server_message_of_a_megabyte_is_cut(raw, client_of, session, words):
    body = json.dumps({"message": words * (900_000 // len(json.dumps(words)))}).encode()
    failed = await answered_with(raw, client_of, session, raw.http(400, body))
    assert len(failed.detail) <= 200


@pytest.mark.parametrize(
    "where",
    [
        "{}",
        "at the end of a long line " + "." * 160 + " {}",
        "a" * 33 + " where the text is cut " + "a" * 1_913 + " {}",
    ],
)
async def test_server_message_hides_secrets(raw, client_of, session, where):
    guest_print = session.guest.fingerprint
    for secret in (guest_print, guest_print.upper(), guest_print[:40], "raw-token", "Bearer other", "eyJh.eyJi.c"):
        body = json.dumps({"message": where.format(secret)}).encode()
        failed = await answered_with(raw, client_of, session, raw.http(400, body))
        assert secret not in failed.detail
        assert secret[:24] not in failed.detail


# Lost answers


def lost(outcome):
    assert isinstance(outcome, Failed)
    return outcome.kind, outcome.status


async def test_refused_connection_is_unsent(nobody, client_of, session, with_token):
    async with client_of(nobody) as client:
        with_token(client)
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.UNSENT, None)
    assert failed.cause is Cause.CONNECTION_REFUSED
    assert failed.observation is Observation.FAILED


async def test_host_without_address_is_unsent(client_of, session, with_token, quick):
    async with client_of(SimpleNamespace(url="http://no-such-host.invalid"), quick) as client:
        with_token(client)
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.UNSENT, None)
    assert failed.cause in (Cause.NO_ADDRESS, Cause.CONNECTION_TIMEOUT)


async def test_invalid_host_is_unsent(client_of, session, with_token):
    async with client_of(SimpleNamespace(url="http://127.1")) as client:
        with_token(client)
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.UNSENT, None)
    assert failed.cause is Cause.INVALID_HOST


async def test_failed_tls_handshake_is_unsent(raw, client_of, session, with_token):
    async with raw.server(raw.token) as server:
        behind_tls = SimpleNamespace(url=server.url.replace("http:", "https:"))
        async with client_of(behind_tls) as client:
            with_token(client)
            failed = await create(client, session)
    assert lost(failed) == (FailureKind.UNSENT, None)


async def test_timeout_before_a_free_connection_is_unsent(client_of, session, quick):
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
    assert (second.cause, second.detail) == (Cause.CONNECTION_TIMEOUT, "150 ms")
    assert "second" not in simulator.sessions_by_key


async def test_connection_dropped_after_processing_is_in_doubt(client_of, session):
    async with Simulator(SimulatorConfig(drop_share=1)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert len(simulator.sessions_by_key[KEY]) == 1


async def test_connection_dropped_before_processing_is_in_doubt(client_of, session):
    async with Simulator(SimulatorConfig(drop_before_share=1)) as simulator, client_of(simulator) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert KEY not in simulator.sessions_by_key


async def test_connection_reset_after_the_request_is_in_doubt(raw, client_of, session):
    async with raw.server(raw.token, raw.reset) as server, client_of(server) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert failed.cause is Cause.CONNECTION_LOST
    assert len(server.requests) == 2


async def test_http_library_never_resends_a_creation(client_of, session):
    async with Simulator(SimulatorConfig(drop_share=1, fault_times=9)) as simulator, client_of(simulator) as client:
        await create(client, session)
    assert simulator.counts["session 0"] == 1


async def test_missing_answer_is_in_doubt(client_of, session, quick):
    async with Simulator(SimulatorConfig(hang_share=1)) as simulator, client_of(simulator, quick) as client:
        failed = await create(client, session)
    assert lost(failed) == (FailureKind.IN_DOUBT, None)
    assert (failed.cause, failed.detail) == (Cause.ANSWER_TIMEOUT, "250 ms")
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
async def test_answer_that_is_not_http_is_in_doubt(raw, client_of, session, answer):
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
        CREATED.replace(b'"gt_7x2k9m4p8q1w"', b"null"),
        b" " * 2**21 + CREATED,
    ],
)
async def test_unreadable_success_is_in_doubt(raw, client_of, session, body):
    failed = await answered_with(raw, client_of, session, raw.http(201, body))
    assert lost(failed) == (FailureKind.IN_DOUBT, 201)
    assert failed.cause is Cause.UNREADABLE_ANSWER
    assert "gt_7x2k9m4p8q1w" not in failed.detail


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 x\r\nContent-Length: 1000\r\n\r\n" + CREATED[:-1],
        b"HTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + CREATED,
        b"HTTP/1.1 201 x\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
    ],
    ids=["cut short", "broken chunk", "broken gzip"],
)
async def test_success_with_a_broken_body_is_in_doubt(raw, client_of, session, answer):
    kind, _ = lost(await answered_with(raw, client_of, session, answer))
    assert kind is FailureKind.IN_DOUBT


async def test_creation_without_a_token_raises(nobody, client_of, session):
    async with client_of(nobody) as client:
        with pytest.raises(ServiceUnreachable):
            await create(client, session)


async def test_client_works_after_a_cancelled_creation(client_of, session):
    async with Simulator(SimulatorConfig(hang_share=1)) as simulator, client_of(simulator) as client:
        creating = asyncio.create_task(create(client, session))
        await until(lambda: simulator.sessions_by_key)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert isinstance(await create(client, session), Created)


# The key


async def test_same_key_gives_the_same_session_if_honoured(client_of, session):
    async with Simulator(SimulatorConfig(drop_share=1)) as simulator, client_of(simulator) as client:
        await create(client, session)
        made = await create(client, session)
    assert [one.session_id for one in simulator.sessions_by_key[KEY]] == [made.session_id]


async def test_same_key_gives_a_second_session_if_not_honoured(client_of, session):
    async with (
        Simulator(SimulatorConfig(drop_share=1, honour_idempotency_key=False)) as simulator,
        client_of(simulator) as client,
    ):
        await create(client, session)
        made = await create(client, session)
    _, second = simulator.sessions_by_key[KEY]
    assert second.session_id == made.session_id
