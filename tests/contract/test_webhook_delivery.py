"""The analytics webhook (contract, "Analytics webhook")."""

import base64
import json
import secrets
import socket
import traceback
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from types import SimpleNamespace

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.webhook import HttpWebhook
from guestledger.adapters.webhook.addresses import why_refused
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.session import Status

# The receivers here are on loopback.
a_webhook = partial(HttpWebhook, allow_private=True)
SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four byte").decode()


@pytest.fixture
def started(make_session):
    """A session that has started."""
    return make_session(
        status=Status.ACTIVE,
        session_id="sess_9d4e8f1a",
        created_at=datetime(2024, 5, 20, 14, 22, 1, 5_000, tzinfo=UTC),
    )


async def test_notice_is_the_contracts_byte_for_byte(simulator, started):
    async with a_webhook(url=simulator.webhook_url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.accepted, delivered.status, delivered.cause) == (True, 200, None)
    sent = simulator.webhooks[0]
    assert sent.headers["content-type"] == "application/json"
    assert sent.body == (
        b'{"event":"session_started","sessionId":"sess_9d4e8f1a","channelId":"ch_8f3a9b2c","fingerprint":"'
        + started.guest.fingerprint.encode()
        + b'","consentTimestamp":"2024-05-20T14:22:00Z","timestamp":"2024-05-20T14:22:01Z"}'
    )


async def test_calls_without_a_secret_are_unsigned(simulator, started):
    async with a_webhook(url=simulator.webhook_url) as webhook:
        await webhook.send(started)
    assert not [name for name in simulator.webhooks[0].headers if name.startswith("webhook-")]


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), SECRET.rstrip("=")])
async def test_scheme_library_accepts_the_signature(simulator, started, secret):
    async with a_webhook(url=simulator.webhook_url, secret=secret) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    assert Webhook(secret).verify(sent.body, sent.headers)["sessionId"] == "sess_9d4e8f1a"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(sent.body + b" ", sent.headers)


async def test_signature_is_independent_of_the_clocks_zone(simulator, started):
    there = timezone(timedelta(hours=9))
    async with a_webhook(url=simulator.webhook_url, secret=SECRET, now=lambda: datetime.now(there)) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    Webhook(SECRET).verify(sent.body, sent.headers)


async def test_retries_have_the_same_id_and_their_own_timestamp(started, make_session):
    moments = iter([datetime(2024, 5, 20, 14, 22, 1, 999_999, tzinfo=UTC), datetime(2024, 5, 20, 15, 0, tzinfo=UTC)])
    async with (
        Simulator(SimulatorConfig(webhook_status=500)) as simulator,
        a_webhook(url=simulator.webhook_url, secret=SECRET, now=lambda: next(moments)) as webhook,
    ):
        await webhook.send(started)
        await webhook.send(started)
    first, second = (sent.headers for sent in simulator.webhooks)
    assert first["webhook-id"] == second["webhook-id"] == f"msg_{started.id.hex}"
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1716214921", "1716217200")
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (204, None),
        (400, Cause.NOT_ACCEPTED),
        (429, Cause.NOT_ACCEPTED),
        (500, Cause.NOT_ACCEPTED),
        (302, Cause.REDIRECTED),
        (410, Cause.RECEIVER_GONE),
    ],
)
async def test_status_decides_the_delivery(started, status, cause):
    async with (
        Simulator(SimulatorConfig(webhook_status=status)) as simulator,
        a_webhook(url=simulator.webhook_url) as webhook,
    ):
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.cause, delivered.detail) == (status, cause, "")
    assert (delivered.accepted, delivered.gone) == (status == 204, status == 410)


async def test_redirect_is_not_followed(raw, started):
    async with (
        raw.server(raw.http(307, b"", "Location: /elsewhere"), raw.http(200)) as server,
        a_webhook(url=server.url) as webhook,
    ):
        assert not (await webhook.send(started)).accepted
    assert len(server.requests) == 1


async def test_call_ends_after_the_timeout(started):
    async with (
        Simulator(SimulatorConfig(webhook_hang_s=60)) as simulator,
        a_webhook(url=simulator.webhook_url, timeout_ms=100) as webhook,
    ):
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.cause, delivered.detail) == (None, Cause.ANSWER_TIMEOUT, "100 ms")
    assert 100 <= delivered.latency_ms < 30_000


async def test_refused_connection_has_its_cause(nobody, started):
    async with a_webhook(url=nobody.url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.cause) == (None, Cause.CONNECTION_REFUSED)


@pytest.mark.parametrize(
    ("answer", "cause"), [(b"", Cause.CONNECTION_LOST), (b"gibberish\r\n\r\n", Cause.PROTOCOL_ERROR)]
)
async def test_answer_that_is_not_http_has_its_cause(raw, started, answer, cause):
    async with raw.server(answer) as server, a_webhook(url=server.url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.cause) == (None, cause)


async def test_failed_tls_handshake_has_its_cause(raw, started):
    async with raw.server(b"no tls here") as server, a_webhook(url=server.url.replace("http:", "https:")) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.cause) == (None, Cause.TLS_FAILED)


async def test_outcome_shows_nothing_of_the_url(nobody, raw, started):
    async with raw.server(b"") as dropping:
        for server in (nobody, dropping, SimpleNamespace(url="http://no-such-host.invalid")):
            url = server.url.replace("//", "//user:hunter2@") + "/hook/T0PS3CRET?key=hunter3"
            async with a_webhook(url=url, timeout_ms=500) as webhook:
                delivered = await webhook.send(started)
            shown = repr(delivered) + repr(webhook)
            assert not [secret for secret in ("hunter2", "hunter3", "T0PS3CRET") if secret in shown]


@pytest.mark.parametrize("secret", ["", "whsec_", "not base64!", "whsec_abc-def_ghi", "ä", "a", SECRET + " a"])
def test_invalid_secret_is_refused_and_not_shown(secret):
    with pytest.raises(ValueError, match="the webhook secret must be base64") as caught:
        a_webhook(url="http://127.0.0.1", secret=secret)
    if len(secret) > 6:
        assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url", ["", "example.com/hook", "file:///etc/passwd", "http://", "http://h:99999/?key=hunter2"]
)
def test_invalid_url_is_refused_and_not_shown(url):
    with pytest.raises(ValueError, match="the URL must be") as caught:
        a_webhook(url=url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_notice_has_only_the_contracts_fields(simulator, started):
    async with a_webhook(
        url=simulator.webhook_url, secret="whsec_" + secrets.token_urlsafe(24).replace("-", "a").replace("_", "b")
    ) as webhook:
        await webhook.send(started)
    notice = json.loads(simulator.webhooks[0].body)
    assert set(notice) == {"event", "sessionId", "channelId", "fingerprint", "consentTimestamp", "timestamp"}
    assert "203.0.113.7" not in simulator.webhooks[0].body.decode()


# Several secrets


async def test_each_secret_gives_a_signature_newest_first(simulator, started):
    new = "whsec_" + base64.b64encode(b"the key that comes next, 24+").decode()
    now = datetime.now(UTC)
    async with a_webhook(url=simulator.webhook_url, secret=f"{new} {SECRET}\n", now=lambda: now) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    signed = [Webhook(secret).sign(sent.headers["webhook-id"], now, sent.body.decode()) for secret in (new, SECRET)]
    assert sent.headers["webhook-signature"] == " ".join(signed)
    for secret in (new, SECRET):
        assert Webhook(secret).verify(sent.body, sent.headers)["sessionId"] == "sess_9d4e8f1a"


# Retry-After


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_of_429_and_503_is_read(raw, started, status):
    date, later = "Mon, 20 May 2024 14:00:00 GMT", "Mon, 20 May 2024 14:02:00 GMT"
    answers = [
        raw.http(status, b"", "Retry-After: 7"),
        raw.http(status, b"", f"Date: {date}", f"Retry-After: {later}"),
        raw.http(status, b"", "Retry-After: soon"),
        raw.http(status, b"", "Retry-After: 1", "Retry-After: 60"),
    ]
    async with raw.server(*answers) as server, a_webhook(url=server.url) as webhook:
        asked = [(await webhook.send(started)).retry_after for _ in answers]
    assert [(one.given, one.ms) for one in asked] == [
        ("7", 7_000),
        (later, 120_000),
        ("soon", 2_000),
        ("1, 60", 60_000),
    ]


@pytest.mark.parametrize("answer", [(429,), (503,), (500, b"", "Retry-After: 7"), (302, b"", "Retry-After: 7")])
async def test_no_wait_without_retry_after_or_for_other_statuses(raw, started, answer):
    async with raw.server(raw.http(*answer)) as server, a_webhook(url=server.url) as webhook:
        assert (await webhook.send(started)).retry_after is None


# Permitted addresses


def refused(delivered, kind):
    return (delivered.status, delivered.cause, delivered.detail) == (None, Cause.ADDRESS_REFUSED, kind)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_loopback_is_not_called_in_any_notation(simulator, started, host):
    async with HttpWebhook(url=simulator.webhook_url.replace("127.0.0.1", host)) as webhook:
        delivered = await webhook.send(started)
    assert refused(delivered, "loopback")
    assert list(simulator.webhooks) == []


@pytest.mark.parametrize("host", ["127.1", "2130706433"])
async def test_invalid_host_is_not_called(simulator, started, host):
    async with a_webhook(url=simulator.webhook_url.replace("127.0.0.1", host)) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.cause) == (None, Cause.INVALID_HOST)
    assert list(simulator.webhooks) == []


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("10.0.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("100.64.0.1", "shared (CGNAT)"),
        ("0.0.0.0", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("[fd00:ec2::254]", "private"),
        ("[64:ff9b::a9fe:a9fe]", "NAT64"),
        ("[2002:7f00:1::]", "6to4"),
    ],
)
async def test_refused_address_is_named_by_its_kind_only(started, host, kind, caplog):
    async with HttpWebhook(url=f"https://{host}/hook/T0PS3CRET") as webhook:
        delivered = [await webhook.send(started) for _ in range(3)]
    assert all(refused(one, kind) for one in delivered)
    assert len(caplog.messages) == 1, "warned once"
    assert host.strip("[]") not in caplog.text + repr(delivered)
    assert "T0PS3CRET" not in caplog.text


@pytest.fixture
def resolve(monkeypatch):
    """`resolve(address, …)`: every name has these addresses. Return the list of names that were looked up."""

    def to(*addresses):
        asked = []

        def getaddrinfo(host, port, *_, **__):
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return to


async def test_name_that_resolves_to_loopback_is_not_called(simulator, started, resolve):
    asked = resolve("127.0.0.1")
    async with HttpWebhook(url=simulator.webhook_url.replace("127.0.0.1", "rebound.example")) as webhook:
        delivered = await webhook.send(started)
    assert asked == ["rebound.example"]
    assert refused(delivered, "loopback")
    assert list(simulator.webhooks) == []


async def test_only_public_addresses_of_a_name_are_tried(simulator, started, resolve, monkeypatch):
    judged = []

    def judge(address):  # loopback counts as public
        judged.append(address)
        return None if address == "127.0.0.1" else why_refused(address)

    monkeypatch.setattr("guestledger.adapters.webhook.addresses.why_refused", judge)
    resolve("10.0.0.1", "192.168.0.1", "127.0.0.1")
    async with HttpWebhook(url=simulator.webhook_url.replace("127.0.0.1", "both.example")) as webhook:
        assert (await webhook.send(started)).accepted
    assert judged == ["10.0.0.1", "192.168.0.1", "127.0.0.1"]


async def test_name_without_a_public_address_is_refused(started, resolve):
    resolve("10.0.0.1", "127.0.0.1", "169.254.169.254")
    async with HttpWebhook(url="http://inside.example/hook") as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.cause) == (None, Cause.ADDRESS_REFUSED)


async def test_environment_proxy_is_not_used(raw, simulator, started, monkeypatch):
    async with raw.server(raw.http(200)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with a_webhook(url=simulator.webhook_url) as webhook:
            assert (await webhook.send(started)).accepted
    assert proxy.requests == []
    assert len(simulator.webhooks) == 1
