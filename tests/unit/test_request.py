"""Guest requests: which are accepted. A refusal names the field and never repeats its value."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from guestledger.engine.domain.consent import refused_flags
from guestledger.engine.domain.errors import IdempotencyConflict, InvalidRequest
from guestledger.engine.domain.request import (
    checked,
    checked_correlation_id,
    parse_request,
)
from tests.unit.samples import CHANNEL, IP, SESSION, TOKEN, USER_AGENT, consent, request

PLAIN: dict[str, Any] = {
    "channelId": CHANNEL,
    "ipAddress": IP,
    "userAgent": USER_AGENT,
    "timestamp": "2024-05-20T14:21:59Z",
    "consent": {"dataProcessing": True, "gdprCompliant": True},
}
MARK = "4111111111111111"


def line(without: Any = "", **given: Any) -> bytes:
    whole = {**PLAIN, **given}
    return json.dumps({name: value for name, value in whole.items() if name != without}).encode()


def refusal(data: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(data)
    return caught.value


def test_a_json_line_is_parsed_as_a_guest_request() -> None:
    assert parse_request(line()) == request()


def test_every_field_of_the_contract_is_parsed() -> None:
    given = {
        "source": "app",
        "campaign": "spring",
        "deviceType": "phone",
        "consent": {
            "dataProcessing": True,
            "gdprCompliant": True,
            "marketing": True,
            "notice": "2024-05",
            "noticeLanguage": "pt-BR",
            "noticeSha256": "ab" * 32,
            "collectionMethod": "web form",
        },
        "idempotencyKey": "order-4711",
        "subjectId": "person-17",
    }
    assert parse_request(line(**given)) == request(
        source="app",
        campaign="spring",
        device_type="phone",
        consent=consent(
            marketing=True,
            notice="2024-05",
            notice_language="pt-BR",
            notice_sha256="ab" * 32,
            collection_method="web form",
        ),
        idempotency_key="order-4711",
        subject_id="person-17",
    )


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"without": "channelId"}, "channelId", "is missing"),
    ({"without": "ipAddress"}, "ipAddress", "is missing"),
    ({"without": "userAgent"}, "userAgent", "is missing"),
    ({"without": "timestamp"}, "timestamp", "is missing"),
    ({"channelId": ""}, "channelId", "must not be empty"),
    ({"channelId": MARK * 9}, "channelId", "is longer than 128 characters"),
    ({"channelId": 4111}, "channelId", "expected str, got int"),
    ({"channelId": None}, "channelId", "expected str, got null"),
    ({"channelId": f"{MARK}\x00"}, "channelId", "contains control characters"),
    ({"ipAddress": ""}, "ipAddress", "is not an IPv4 or IPv6 address"),
    ({"ipAddress": MARK}, "ipAddress", "is not an IPv4 or IPv6 address"),
    ({"ipAddress": "203.0.113.256"}, "ipAddress", "is not an IPv4 or IPv6 address"),
    ({"ipAddress": "203.0.113.7 "}, "ipAddress", "is not an IPv4 or IPv6 address"),
    ({"ipAddress": "203.0.113.7/24"}, "ipAddress", "is not an IPv4 or IPv6 address"),
    ({"ipAddress": "٢٠٣.0.113.7"}, "ipAddress", "is not an IPv4 or IPv6 address"),
    ({"ipAddress": "fe80::1%\x00"}, "ipAddress", "contains control characters"),
    ({"ipAddress": MARK * 3}, "ipAddress", "is longer than 45 characters"),
    ({"ipAddress": [MARK]}, "ipAddress", "expected str, got array"),
    ({"userAgent": f"{MARK}\n"}, "userAgent", "contains control characters"),
    ({"userAgent": f"{MARK}\x7f"}, "userAgent", "contains control characters"),
    ({"userAgent": MARK * 100}, "userAgent", "is longer than 1024 characters"),
    ({"userAgent": {MARK: MARK}}, "userAgent", "expected str, got object"),
    ({"timestamp": ""}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": MARK}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14:21:59"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20 14:21:59Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-02-30T14:21:59Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-W21-1T14:21:59Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-141T14:21:59Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "20240520T142159Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14:21Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14:21:59,5Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14:21:59.Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14:21:59+0200"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14:21:59+02:00:30"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T24:00:00Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-05-20T14:21:60Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "2024-12-31T23:59:60+01:00"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "9999-12-31T23:59:60-08:00"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": "٢٠٢٤-05-20T14:21:59Z"}, "timestamp", "is not an RFC 3339 time"),
    ({"timestamp": 1716214919}, "timestamp", "expected str, got int"),
    ({"timestamp": MARK * 3}, "timestamp", "is longer than 40 characters"),
    ({"source": ""}, "source", "must not be empty"),
    ({"campaign": f"{MARK}\t"}, "campaign", "contains control characters"),
    ({"channelId": f"{MARK}\x9b31m"}, "channelId", "contains control characters"),
    ({"channelId": f"{MARK}\x80"}, "channelId", "contains control characters"),
    ({"subjectId": f"{MARK}\u202e"}, "subjectId", "contains control characters"),
    ({"source": f"{MARK}\u2066"}, "source", "contains control characters"),
    ({"idempotencyKey": f"{MARK}\u2028"}, "idempotencyKey", "contains control characters"),
    ({"deviceType": True}, "deviceType", "expected str, got bool"),
    ({"idempotencyKey": ""}, "idempotencyKey", "must not be empty"),
    ({"idempotencyKey": MARK * 16}, "idempotencyKey", "is longer than 255 characters"),
    ({"idempotencyKey": 7}, "idempotencyKey", "expected str | null, got int"),
    ({"subjectId": ""}, "subjectId", "must not be empty"),
    ({"consent": None}, "consent", "expected object, got null"),
    ({"consent": MARK}, "consent", "expected object, got str"),
    ({"consent": {"marketing": MARK}}, "consent.marketing", "expected bool, got str"),
    ({"consent": {"marketing": None}}, "consent.marketing", "expected bool, got null"),
    ({"consent": {"notice": MARK * 9}}, "consent.notice", "is longer than 128 characters"),
    ({"consent": {"noticeLanguage": MARK}}, "consent.noticeLanguage", "is not a language tag such as en or pt-BR"),
    ({"consent": {"noticeLanguage": ""}}, "consent.noticeLanguage", "is not a language tag such as en or pt-BR"),
    ({"consent": {"noticeLanguage": "en\n"}}, "consent.noticeLanguage", "is not a language tag such as en or pt-BR"),
    ({"consent": {"noticeLanguage": "en-" + "a-" * 20}}, "consent.noticeLanguage", "is longer than 35 characters"),
    ({"consent": {"noticeSha256": MARK}}, "consent.noticeSha256", "is not 64 lowercase hex digits"),
    ({"consent": {"noticeSha256": "AB" * 32}}, "consent.noticeSha256", "is not 64 lowercase hex digits"),
    ({"consent": {"collectionMethod": ""}}, "consent.collectionMethod", "must not be empty"),
    ({"consent": {"collectionMethod": f"{MARK}\n"}}, "consent.collectionMethod", "contains control characters"),
    ({"consent": {"granted": True}}, "consent.granted", "is not a field of a guest request"),
    ({"chanelId": MARK}, "chanelId", "is not a field of a guest request"),
]


@pytest.mark.parametrize(("given", "field", "reason"), BAD_FIELDS)
def test_an_invalid_field_is_named_with_a_reason_and_without_its_value(
    given: dict[str, Any], field: str, reason: str
) -> None:
    error = refusal(line(**given))
    assert error.field == field
    assert error.reason.startswith(reason)
    assert str(error) == f"{field}: {error.reason}"
    assert MARK[:4] not in str(error)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (line()[:-1], "is not JSON"),
        (line() + b"4111", "is not JSON"),
        (b"\xff4111", "is not JSON"),
        (line().replace(b"Mozilla", b"4111\xff"), "is not UTF-8"),
        (b"[4111]", "expected object, got array"),
        (b"4111", "expected object, got int"),
        (b"null", "expected object, got null"),
        (b'"4111"', "expected object, got str"),
        (line().replace(b"Mozilla", b"4111\\ud800"), "is not JSON"),
    ],
)
def test_input_that_is_no_request_is_rejected_as_a_whole(data: bytes, reason: str) -> None:
    error = refusal(data)
    assert error.field == ""
    assert str(error) == error.reason
    assert reason in error.reason
    assert "4111" not in str(error)


@pytest.mark.parametrize(
    ("once", "twice", "field"),
    [
        (b'"channelId":', b'"channelId":"ch_other","channelId":', "channelId"),
        (b'"channelId":', b'"channel\\u0049d":"ch_other","channelId":', "channelId"),
        (b'"consent":', b'"consent":{"dataProcessing":false},"consent":', "consent"),
        (b'"gdprCompliant":', b'"gdprCompliant":false,"gdprCompliant":', "consent.gdprCompliant"),
        (b'"gdprCompliant": true', b'"gdprCompliant":{"4111":1,"4111":[2]}', "consent"),
    ],
)
def test_a_name_that_is_given_twice_is_rejected(once: bytes, twice: bytes, field: str) -> None:
    assert once in line()
    error = refusal(line().replace(once, twice))
    assert (error.field, error.reason) == (field, "is given more than once")


@pytest.mark.parametrize("levels", [33, 960, 100_000])
def test_too_deeply_nested_json_is_rejected(levels: int) -> None:
    deep = line(consent={"dataProcessing": "@"}).replace(b'"@"', b"[" * levels + b"0" + b"]" * levels)
    error = refusal(deep)
    assert "nested" in error.reason


@pytest.mark.parametrize("name", [IP, "someone@example.org", "+49 170 1234567", "4111 1111", "x\ny", "a`b", MARK * 9])
def test_an_unknown_field_name_that_may_be_personal_is_not_repeated(name: str) -> None:
    for data, field in ((line(**{name: 1}), ""), (line(consent={name: True}), "consent")):
        error = refusal(data)
        assert error.field == field
        assert "field" in error.reason
        assert name not in str(error)
        assert name[:4] not in str(error)


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::1", "::ffff:203.0.113.7", "2001:DB8:0:0:0:0:0:1"])
def test_ipv4_and_ipv6_addresses_are_kept_unchanged(address: str) -> None:
    assert parse_request(line(ipAddress=address)).ip_address == address


@pytest.mark.parametrize(
    "moment",
    [
        "2024-05-20T14:21:59Z",
        "2024-05-20T14:21:59.123Z",
        "2024-05-20T14:21:59.123456789Z",
        "2024-05-20T16:21:59+02:00",
        "2024-05-20T14:21:59-00:00",
        "2024-05-20t14:21:59z",
        "1990-12-31T23:59:60Z",
        "1990-12-31T23:59:60.5Z",
        "1990-12-31T15:59:60-08:00",
        "0001-01-01T00:00:00+14:00",
    ],
)
def test_a_timestamp_is_kept_unchanged(moment: str) -> None:
    assert parse_request(line(timestamp=moment)).timestamp == moment


@pytest.mark.parametrize("agent", ["", "Käfer/1 🐞", "a" * 1_024, 'quote " and \\ slash'])
def test_a_user_agent_may_be_any_printable_text(agent: str) -> None:
    assert parse_request(line(userAgent=agent)).user_agent == agent


@pytest.mark.parametrize("value", [None, "true", 1, 1.0, [], {}, {"deep": [1, {"x": None}]}, 2**80])
def test_any_consent_value_is_parsed_so_that_its_refusal_is_recorded(value: object) -> None:
    through = parse_request(line(consent={"dataProcessing": value, "gdprCompliant": value}))
    assert set(refused_flags(through.consent)) == {"dataProcessing", "gdprCompliant"}
    assert checked(through) == through


# Requests made in Python


def test_a_valid_request_built_in_python_is_unchanged() -> None:
    good = request(idempotency_key="order-4711", subject_id="person-17")
    assert checked(good) == good


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"channel_id": ""}, "channelId", "must not be empty"),
        ({"channel_id": UUID(int=4111)}, "channelId", "expected str, got uuid"),
        ({"ip_address": MARK}, "ipAddress", "is not an IPv4 or IPv6 address"),
        ({"ip_address": 4111}, "ipAddress", "expected str, got int"),
        ({"ip_address": "fe80::1%\ud800"}, "ipAddress", "contains control characters"),
        ({"user_agent": b"4111"}, "userAgent", "expected str, got bytes"),
        ({"user_agent": object()}, "userAgent", "expected str, got object"),
        ({"user_agent": "4111\ud800"}, "userAgent", "contains control characters"),
        ({"timestamp": datetime(4111, 5, 20, tzinfo=UTC)}, "timestamp", "expected str, got datetime"),
        ({"timestamp": MARK}, "timestamp", "is not an RFC 3339 time"),
        ({"consent": consent(marketing=MARK)}, "consent.marketing", "expected bool, got str"),
        ({"consent": consent(data_processing=object())}, "consent", "is not JSON"),
        ({"consent": consent(gdpr_compliant="4111\ud800")}, "consent", "is not JSON"),
        ({"consent": consent(gdpr_compliant={4111: 1})}, "consent", "is not JSON"),
        ({"consent": None}, "consent", "expected object, got null"),
    ],
)
def test_an_invalid_request_built_in_python_is_rejected_by_the_same_rules(
    given: dict[str, Any], field: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked(request(**given))
    assert caught.value.field == field
    assert caught.value.reason.startswith(reason)
    assert "4111" not in str(caught.value)


def test_a_rejection_has_no_cause_that_could_show_the_request() -> None:
    error = refusal(line(ipAddress=MARK, userAgent=MARK))
    assert error.__cause__ is None
    assert error.__suppress_context__


# Idempotency keys


def test_an_idempotency_conflict_names_the_session_and_the_next_action() -> None:
    error = IdempotencyConflict(SESSION, ("channelId", "consent.notice"))
    assert (error.field, error.stream_id) == ("idempotencyKey", SESSION)
    assert f"with another channelId and consent.notice (session {SESSION})" in str(error)
    assert "new key" in str(error)
    assert TOKEN not in str(error)


@pytest.mark.parametrize("given", ["", "a\x00b", "\ud800", "x" * 256])
def test_a_correlation_id_that_cannot_be_stored_is_rejected(given: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked_correlation_id(given)
    assert caught.value.field == "correlationId"


def test_a_valid_correlation_id_is_unchanged() -> None:
    assert checked_correlation_id("trace-4711") == "trace-4711"
