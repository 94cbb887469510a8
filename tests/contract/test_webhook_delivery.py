"""The analytics webhook (contract, "Analytics webhook")."""

import base64
import json
import secrets
import traceback
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from adapters.simulator import Knobs, Simulator
from adapters.webhook import HttpWebhook
from engine.domain.session import Status

SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()


@pytest.fixture
def started(make_session):
    """A session that has started."""
    return make_session(
        status=Status.ACTIVE,
        session_id="sess_9d4e8f1a",
        created_at=datetime(2024, 5, 20, 14, 22, 1, 5_000, tzinfo=UTC),
    )


async def test_the_notice_is_the_contracts_letter_for_letter(simulator, started):
    async with HttpWebhook(url=simulator.webhook_url) as webhook:
        delivered = await webhook.send(started)
    assert delivered.taken
    assert (delivered.status, delivered.message) == (200, "HTTP 200")
    sent = simulator.webhooks[0]
    assert sent.headers["content-type"] == "application/json"
    assert sent.body == (
        b'{"event":"session_started","sessionId":"sess_9d4e8f1a","channelId":"ch_8f3a9b2c","fingerprint":"'
        + started.guest.fingerprint.encode()
        + b'","consentTimestamp":"2024-05-20T14:22:00Z","timestamp":"2024-05-20T14:22:01Z"}'
    )


async def test_without_a_secret_nothing_is_signed(simulator, started):
    async with HttpWebhook(url=simulator.webhook_url) as webhook:
        await webhook.send(started)
    assert not [name for name in simulator.webhooks[0].headers if name.startswith("webhook-")]


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), SECRET.rstrip("=")])
async def test_the_signature_is_accepted_by_the_schemes_own_library(simulator, started, secret):
    async with HttpWebhook(url=simulator.webhook_url, secret=secret) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    assert Webhook(secret).verify(sent.body, sent.headers)["sessionId"] == "sess_9d4e8f1a"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(sent.body + b" ", sent.headers)


async def test_a_clock_in_another_zone_signs_the_same_instant(simulator, started):
    there = timezone(timedelta(hours=9))
    async with HttpWebhook(url=simulator.webhook_url, secret=SECRET, now=lambda: datetime.now(there)) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    Webhook(SECRET).verify(sent.body, sent.headers)


async def test_the_id_is_stable_over_retries_and_the_timestamp_is_the_attempts_own(started, make_session):
    moments = iter([datetime(2024, 5, 20, 14, 22, 1, 999_999, tzinfo=UTC), datetime(2024, 5, 20, 15, 0, tzinfo=UTC)])
    async with (
        Simulator(Knobs(webhook_status=500)) as simulator,
        HttpWebhook(url=simulator.webhook_url, secret=SECRET, now=lambda: next(moments)) as webhook,
    ):
        await webhook.send(started)
        await webhook.send(started)
    first, second = (sent.headers for sent in simulator.webhooks)
    assert first["webhook-id"] == second["webhook-id"] == f"msg_{started.id.hex}"
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1716214921", "1716217200")
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize(
    ("status", "message"),
    [(204, "HTTP 204"), (400, "HTTP 400"), (500, "HTTP 500"), (302, "HTTP 302: redirects are not followed")],
)
async def test_any_answer_is_told_by_its_status(started, status, message):
    async with Simulator(Knobs(webhook_status=status)) as simulator, HttpWebhook(url=simulator.webhook_url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (status, message)
    assert delivered.taken == (status == 204)


async def test_a_redirect_is_not_followed(raw, started):
    async with (
        raw.server(raw.http(307, b"", "Location: /elsewhere"), raw.http(200)) as server,
        HttpWebhook(url=server.url) as webhook,
    ):
        assert not (await webhook.send(started)).taken
    assert len(server.requests) == 1


async def test_a_receiver_that_hangs_is_given_up_after_the_timeout(started):
    async with (
        Simulator(Knobs(webhook_hang_s=60)) as simulator,
        HttpWebhook(url=simulator.webhook_url, timeout_ms=100) as webhook,
    ):
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, "no answer within 100 ms")
    assert 100 <= delivered.latency_ms < 30_000


async def test_a_receiver_that_is_gone_is_told_as_such(nobody, started):
    async with HttpWebhook(url=nobody.url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, "connection refused")


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"", "connection lost before the answer came"), (b"gibberish\r\n\r\n", "what came back is not HTTP")],
)
async def test_a_receiver_that_speaks_no_http_is_told_as_such(raw, started, answer, message):
    async with raw.server(answer) as server, HttpWebhook(url=server.url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, message)


async def test_tls_that_cannot_be_agreed_on_is_told_as_such(raw, started):
    async with raw.server(b"no tls here") as server, HttpWebhook(url=server.url.replace("http:", "https:")) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, "no TLS connection could be agreed on")


async def test_nothing_of_the_url_is_in_a_message(nobody, raw, started):
    async with raw.server(b"") as dropping:
        for server in (nobody, dropping, SimpleNamespace(url="http://no-such-host.invalid")):
            url = server.url.replace("//", "//user:hunter2@") + "/hook/T0PS3CRET?key=hunter3"
            async with HttpWebhook(url=url, timeout_ms=500) as webhook:
                delivered = await webhook.send(started)
            shown = repr(delivered) + repr(webhook)
            assert not [secret for secret in ("hunter2", "hunter3", "T0PS3CRET") if secret in shown]


@pytest.mark.parametrize("secret", ["", "whsec_", "not base64!", "whsec_abc-def_ghi", "ä", "a", " " + SECRET])
def test_a_secret_that_is_not_base64_is_refused_without_being_shown(secret):
    with pytest.raises(ValueError, match="GUESTLEDGER_WEBHOOK_SECRET must be base64") as caught:
        HttpWebhook(url="http://127.0.0.1", secret=secret)
    if len(secret) > 6:
        assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url", ["", "example.com/hook", "file:///etc/passwd", "http://", "http://h:99999/?key=hunter2"]
)
def test_a_url_that_cannot_be_called_is_refused_without_being_shown(url):
    with pytest.raises(ValueError, match="GUESTLEDGER_WEBHOOK_URL") as caught:
        HttpWebhook(url=url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_the_session_is_not_asked_for_more_than_it_has(simulator, started):
    async with HttpWebhook(
        url=simulator.webhook_url, secret="whsec_" + secrets.token_urlsafe(24).replace("-", "a").replace("_", "b")
    ) as webhook:
        await webhook.send(started)
    told = json.loads(simulator.webhooks[0].body)
    assert set(told) == {"event", "sessionId", "channelId", "fingerprint", "consentTimestamp", "timestamp"}
    assert "203.0.113.7" not in simulator.webhooks[0].body.decode()
