"""Successful answers of which a part cannot be read: the rest counts."""

import gzip
import json
import zlib
from datetime import UTC, datetime

import pytest

from guestledger.adapters.webhook import HttpWebhook
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Created, Failed, FailureKind
from guestledger.engine.domain.session import Status

MADE = {"sessionId": "sess_1", "token": "gt_1", "expiresAt": "2099-05-20T15:22:00Z", "status": "active"}
EXPIRY = datetime(2099, 5, 20, 15, 22, tzinfo=UTC)
LONG = "X-Long: " + "x" * 9_000
ENDLESS = "X-Endless: " + "x" * 200_000


async def nothing(): ...


def body(**changes):
    return json.dumps({name: value for name, value in {**MADE, **changes}.items() if value is not ...}).encode()


async def created_by(raw, client_of, session, answer):
    async with raw.server(raw.token, answer) as server, client_of(server) as client:
        return await client.create(client.prepare(session), "key", nothing)


def deflated(plain):
    return zlib.compress(plain)[2:-4]


@pytest.mark.parametrize(
    ("sent", "headers"),
    [
        (body(), (LONG,)),
        (body(), tuple(f"X-{number}: x" for number in range(500))),
        (b"\xef\xbb\xbf" + body(), ()),
        (body().decode().encode("utf-16"), ()),
        (body().decode().encode("utf-32"), ()),
        (body(name="X").replace(b"X", b"\xe9"), ()),
        (body(huge=1).replace(b"1}", b"1e999}"), ()),
        (body(emoji="X").replace(b"X", b"\\ud83d"), ()),
        (body(tab="X").replace(b"X", b"\t"), ()),
        (body(share=float("nan")), ()),
        (body(filler="x" * 500_000), ()),
        (gzip.compress(body()), ("Content-Encoding: gzip",)),
        (zlib.compress(body()), ("Content-Encoding: deflate",)),
        (deflated(body()), ("Content-Encoding: deflate",)),
        (body(), ("Content-Encoding: IDENTITY",)),
        (body(), ("Content-Type: text/plain; charset=nonsense",)),
        (body(), ("Set-Cookie: \x80=;;;", "Location: http://[::bad", "Date: nonsense")),
    ],
)
async def test_oddities_around_the_fields_do_not_matter(raw, client_of, session, sent, headers):
    made = await created_by(raw, client_of, session, raw.http(201, sent, *headers))
    assert isinstance(made, Created)
    assert (made.session_id, made.guest_token, made.expires_at, made.unread) == ("sess_1", "gt_1", EXPIRY, {})


async def test_whole_object_in_a_body_that_is_cut_short_is_read(raw, client_of, session):
    answer = b"HTTP/1.1 201 x\r\nContent-Length: 1000\r\n\r\n" + body()
    assert isinstance(await created_by(raw, client_of, session, answer), Created)


@pytest.mark.parametrize(
    "given",
    [
        "2099-05-20T15:22:00",
        "9999-12-31T23:59:59.9999999Z",
        "9999-12-31T23:59:59-01:00",
        "tomorrow",
        "",
        None,
        -1,
        0,
        3600,
        True,
        1e300,
        ...,
    ],
)
async def test_unreadable_expiry_is_unknown_and_shown(raw, client_of, session, given):
    made = await created_by(raw, client_of, session, raw.http(201, body(expiresAt=given)))
    assert (made.session_id, made.guest_token, made.expires_at) == ("sess_1", "gt_1", None)
    assert made.unread == {"expires_at": "absent" if given is ... else json.dumps(given)}


@pytest.mark.parametrize(("given", "shown"), [({"id": "sess_1", "token": "gt_1"}, "an object"), (["gt_1"], "an array")])
async def test_content_of_an_unreadable_object_is_not_shown(raw, client_of, session, given, shown):
    made = await created_by(raw, client_of, session, raw.http(201, body(expiresAt=given)))
    assert made.unread == {"expires_at": shown}
    failed = await created_by(raw, client_of, session, raw.http(201, body(sessionId=given)))
    assert failed.detail == f"sessionId: {shown}"


@pytest.mark.parametrize("given", [4_082_973_720, 4_082_973_720_000, "4082973720", "4082973720000", 4_082_973_720.0])
async def test_expiry_that_is_a_unix_time_is_read_as_one(raw, client_of, session, given):
    made = await created_by(raw, client_of, session, raw.http(201, body(expiresAt=given)))
    assert (made.expires_at, made.unread) == (EXPIRY, {})


@pytest.mark.parametrize("given", [None, 7, "", "two\nlines", "x" * 300, ...])
async def test_unreadable_status_is_empty_and_shown(raw, client_of, session, given):
    made = await created_by(raw, client_of, session, raw.http(201, body(status=given)))
    assert (made.session_id, made.status) == ("sess_1", "")
    assert list(made.unread) == ["status"]
    assert len(made.unread["status"]) <= 64


async def test_number_as_a_session_id_is_read(raw, client_of, session):
    made = await created_by(raw, client_of, session, raw.http(201, body(sessionId=9_007_199_254_740_993)))
    assert made.session_id == "9007199254740993"


@pytest.mark.parametrize("given", ["sess\ud83d", "x" * 257, 10**256])
async def test_session_id_that_cannot_be_kept_is_unreadable(raw, client_of, session, given):
    failed = await created_by(raw, client_of, session, raw.http(201, body(sessionId=given)))
    assert (failed.kind, failed.cause, failed.session_id) == (FailureKind.IN_DOUBT, Cause.UNREADABLE_ANSWER, None)


@pytest.mark.parametrize("given", [None, 7, "", "gt\n1", ...])
async def test_session_without_a_readable_token_keeps_its_id(raw, client_of, session, given):
    failed = await created_by(raw, client_of, session, raw.http(201, body(token=given)))
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.cause) == (FailureKind.IN_DOUBT, Cause.UNREADABLE_ANSWER)
    assert (failed.session_id, failed.detail) == ("sess_1", "session sess_1 has no readable token")


@pytest.mark.parametrize(
    "answer",
    [
        (201, body(), ENDLESS),
        (201, body(), "garbage"),
        (201, b"\x06", "Content-Encoding: br"),
        (201, b"not gzip", "Content-Encoding: gzip"),
    ],
)
async def test_unreadable_answer_keeps_its_status(raw, client_of, session, answer):
    failed = await created_by(raw, client_of, session, raw.http(*answer))
    assert (failed.kind, failed.cause, failed.status) == (FailureKind.IN_DOUBT, Cause.UNREADABLE_ANSWER, 201)


async def test_decompression_stops_at_the_limit(raw, client_of, session):
    bomb = gzip.compress(b" " * 200_000_000, 1)
    failed = await created_by(raw, client_of, session, raw.http(201, bomb[:900_000], "Content-Encoding: gzip"))
    assert failed.cause is Cause.UNREADABLE_ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: 0\r\n\r\n" % LONG.encode(),
        b"HTTP/1.1 200 OK\r\n%s\r\nContent-Length: 0\r\n\r\n" % ENDLESS.encode(),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\n\x06",
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ngarbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: \x00b\r\n\r\n",
        b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 299 Odd\r\nContent-Length: 1000\r\n\r\ncut short",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202 OK\r\ngarbage\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_receivers_2xx_is_a_2xx_whatever_follows(raw, make_session, answer):
    session = make_session(status=Status.ACTIVE, session_id="sess_1", created_at=make_session().accepted_at)
    async with raw.server(answer) as server, HttpWebhook(url=server.url, allow_private=True) as webhook:
        delivered = await webhook.send(session)
    assert delivered.accepted
    assert 200 <= delivered.status < 300


async def test_status_of_an_unreadable_refusal_counts(raw, make_session):
    session = make_session(status=Status.ACTIVE, session_id="sess_1", created_at=make_session().accepted_at)
    answer = b"HTTP/1.1 410 Gone\r\ngarbage\r\n\r\n"
    async with raw.server(answer) as server, HttpWebhook(url=server.url, allow_private=True) as webhook:
        delivered = await webhook.send(session)
    assert (delivered.gone, delivered.status) == (True, 410)
