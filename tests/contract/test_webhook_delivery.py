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


async def test_the_notice_is_the_contracts_letter_for_letter(simulator, started):
    async with a_webhook(url=simulator.webhook_url) as webhook:
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
    async with a_webhook(url=simulator.webhook_url) as webhook:
        await webhook.send(started)
    assert not [name for name in simulator.webhooks[0].headers if name.startswith("webhook-")]


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_"), SECRET.rstrip("=")])
async def test_the_signature_is_accepted_by_the_schemes_own_library(simulator, started, secret):
    async with a_webhook(url=simulator.webhook_url, secret=secret) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    assert Webhook(secret).verify(sent.body, sent.headers)["sessionId"] == "sess_9d4e8f1a"
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(sent.body + b" ", sent.headers)


async def test_a_clock_in_another_zone_signs_the_same_instant(simulator, started):
    there = timezone(timedelta(hours=9))
    async with a_webhook(url=simulator.webhook_url, secret=SECRET, now=lambda: datetime.now(there)) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    Webhook(SECRET).verify(sent.body, sent.headers)


async def test_the_id_is_stable_over_retries_and_the_timestamp_is_the_attempts_own(started, make_session):
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
    ("status", "message"),
    [(204, "HTTP 204"), (400, "HTTP 400"), (500, "HTTP 500"), (302, "HTTP 302: redirects are not followed")],
)
async def test_any_answer_is_told_by_its_status(started, status, message):
    async with (
        Simulator(SimulatorConfig(webhook_status=status)) as simulator,
        a_webhook(url=simulator.webhook_url) as webhook,
    ):
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (status, message)
    assert delivered.taken == (status == 204)


async def test_a_redirect_is_not_followed(raw, started):
    async with (
        raw.server(raw.http(307, b"", "Location: /elsewhere"), raw.http(200)) as server,
        a_webhook(url=server.url) as webhook,
    ):
        assert not (await webhook.send(started)).taken
    assert len(server.requests) == 1


async def test_a_receiver_that_hangs_is_given_up_after_the_timeout(started):
    async with (
        Simulator(SimulatorConfig(webhook_hang_s=60)) as simulator,
        a_webhook(url=simulator.webhook_url, timeout_ms=100) as webhook,
    ):
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, "no answer within 100 ms")
    assert 100 <= delivered.latency_ms < 30_000


async def test_a_receiver_that_is_gone_is_told_as_such(nobody, started):
    async with a_webhook(url=nobody.url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, "connection refused")


@pytest.mark.parametrize(
    ("answer", "message"),
    [(b"", "connection lost before the answer came"), (b"gibberish\r\n\r\n", "what came back is not HTTP")],
)
async def test_a_receiver_that_speaks_no_http_is_told_as_such(raw, started, answer, message):
    async with raw.server(answer) as server, a_webhook(url=server.url) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, message)


async def test_tls_that_cannot_be_agreed_on_is_told_as_such(raw, started):
    async with raw.server(b"no tls here") as server, a_webhook(url=server.url.replace("http:", "https:")) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, "no TLS connection could be agreed on")


async def test_nothing_of_the_url_is_in_a_message(nobody, raw, started):
    async with raw.server(b"") as dropping:
        for server in (nobody, dropping, SimpleNamespace(url="http://no-such-host.invalid")):
            url = server.url.replace("//", "//user:hunter2@") + "/hook/T0PS3CRET?key=hunter3"
            async with a_webhook(url=url, timeout_ms=500) as webhook:
                delivered = await webhook.send(started)
            shown = repr(delivered) + repr(webhook)
            assert not [secret for secret in ("hunter2", "hunter3", "T0PS3CRET") if secret in shown]


@pytest.mark.parametrize("secret", ["", "whsec_", "not base64!", "whsec_abc-def_ghi", "ä", "a", SECRET + " a"])
def test_a_secret_that_is_not_base64_is_refused_without_being_shown(secret):
    with pytest.raises(ValueError, match="GUESTLEDGER_WEBHOOK_SECRET must be base64") as caught:
        a_webhook(url="http://127.0.0.1", secret=secret)
    if len(secret) > 6:
        assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url", ["", "example.com/hook", "file:///etc/passwd", "http://", "http://h:99999/?key=hunter2"]
)
def test_a_url_that_cannot_be_called_is_refused_without_being_shown(url):
    with pytest.raises(ValueError, match="GUESTLEDGER_WEBHOOK_URL") as caught:
        a_webhook(url=url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_the_session_is_not_asked_for_more_than_it_has(simulator, started):
    async with a_webhook(
        url=simulator.webhook_url, secret="whsec_" + secrets.token_urlsafe(24).replace("-", "a").replace("_", "b")
    ) as webhook:
        await webhook.send(started)
    told = json.loads(simulator.webhooks[0].body)
    assert set(told) == {"event", "sessionId", "channelId", "fingerprint", "consentTimestamp", "timestamp"}
    assert "203.0.113.7" not in simulator.webhooks[0].body.decode()


# Several secrets


async def test_each_of_several_secrets_gives_a_signature_the_newest_first(simulator, started):
    new = "whsec_" + base64.b64encode(b"the key that comes next, 24+").decode()
    now = datetime.now(UTC)
    async with a_webhook(url=simulator.webhook_url, secret=f"{new} {SECRET}\n", now=lambda: now) as webhook:
        await webhook.send(started)
    sent = simulator.webhooks[0]
    signed = [Webhook(secret).sign(sent.headers["webhook-id"], now, sent.body.decode()) for secret in (new, SECRET)]
    assert sent.headers["webhook-signature"] == " ".join(signed)
    for secret in (new, SECRET):
        assert Webhook(secret).verify(sent.body, sent.headers)["sessionId"] == "sess_9d4e8f1a"


# When to call again


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_may_say_when_it_wants_to_be_called_again(raw, started, status):
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
async def test_other_answers_leave_that_to_the_schedule(raw, started, answer):
    async with raw.server(raw.http(*answer)) as server, a_webhook(url=server.url) as webhook:
        assert (await webhook.send(started)).retry_after is None


# Where it may go


REFUSED = "not sent: the receiver's address is {}, and only public ones are called"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_a_receiver_on_this_machine_is_not_called_however_it_is_written(simulator, started, host):
    async with HttpWebhook(url=simulator.webhook_url.replace("127.0.0.1", host)) as webhook:
        delivered = await webhook.send(started)
    assert (delivered.status, delivered.message) == (None, REFUSED.format("loopback"))
    assert list(simulator.webhooks) == []


@pytest.mark.parametrize("host", ["127.1", "2130706433"])
async def test_a_host_that_is_neither_a_name_nor_a_whole_address_is_not_called(simulator, started, host):
    async with a_webhook(url=simulator.webhook_url.replace("127.0.0.1", host)) as webhook:
        delivered = await webhook.send(started)
    assert delivered.message.startswith("not sent: the receiver's host is neither a name nor an address")
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
async def test_what_is_refused_is_told_by_its_kind_and_not_by_its_address(started, host, kind, caplog):
    async with HttpWebhook(url=f"https://{host}/hook/T0PS3CRET") as webhook:
        delivered = [await webhook.send(started) for _ in range(3)]
    assert {one.message for one in delivered} == {REFUSED.format(kind)}
    assert len(caplog.messages) == 1, "told once, however often it is tried"
    assert host.strip("[]") not in caplog.text + repr(delivered)
    assert "T0PS3CRET" not in caplog.text


@pytest.fixture
def resolve(monkeypatch):
    """`resolve(address, …)`: from now on, every name has these addresses. How often they were asked for is returned."""

    def to(*addresses):
        asked = []

        def getaddrinfo(host, port, *_, **__):
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return to


async def test_a_name_that_leads_to_this_machine_by_the_time_of_the_connection_leads_nowhere(
    simulator, started, resolve
):
    asked = resolve("127.0.0.1")
    async with HttpWebhook(url=simulator.webhook_url.replace("127.0.0.1", "rebound.example")) as webhook:
        delivered = await webhook.send(started)
    assert asked == ["rebound.example"]
    assert delivered.message == REFUSED.format("loopback")
    assert list(simulator.webhooks) == []


async def test_of_a_name_with_several_addresses_only_the_public_ones_are_tried(
    simulator, started, resolve, monkeypatch
):
    judged = []

    def judge(address):  # as if loopback were public
        judged.append(address)
        return None if address == "127.0.0.1" else why_refused(address)

    monkeypatch.setattr("guestledger.adapters.webhook.addresses.why_refused", judge)
    resolve("10.0.0.1", "192.168.0.1", "127.0.0.1")
    async with HttpWebhook(url=simulator.webhook_url.replace("127.0.0.1", "both.example")) as webhook:
        assert (await webhook.send(started)).taken
    assert judged == ["10.0.0.1", "192.168.0.1", "127.0.0.1"]


async def test_a_name_that_has_no_public_address_at_all_is_refused(started, resolve):
    resolve("10.0.0.1", "127.0.0.1", "169.254.169.254")
    async with HttpWebhook(url="http://inside.example/hook") as webhook:
        delivered = await webhook.send(started)
    assert delivered.status is None
    assert delivered.message.startswith("not sent: the receiver's address is ")


async def test_a_proxy_of_the_environment_is_not_used(raw, simulator, started, monkeypatch):
    async with raw.server(raw.http(200)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with a_webhook(url=simulator.webhook_url) as webhook:
            assert (await webhook.send(started)).taken
    assert proxy.requests == []
    assert len(simulator.webhooks) == 1
