"""Opening a session: consent, fingerprint, defaults."""

import json
from enum import Enum
from hashlib import sha256
from typing import Any

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.consent import fingerprint
from guestledger.engine.domain.request import GuestConsent, GuestRequest, parse_request
from guestledger.engine.domain.session import Status
from tests.unit.given import given
from tests.unit.samples import ATTEMPTING, CHANNEL, EXPIRED, IP, START, USER_AGENT, at, consent, open_session, request

FLAGS = {"data_processing": "dataProcessing", "gdpr_compliant": "gdprCompliant"}


class Truth(Enum):
    YES = True


NOT_TRUE: list[tuple[Any, str]] = [
    (None, "null"),
    (False, "false"),
    ("true", '"true"'),
    ("True", '"True"'),
    ("", '""'),
    (1, "1"),
    (0, "0"),
    (1.0, "1.0"),
    (2**70, str(2**70)),
    ([], "[]"),
    ([True], "[true]"),
    ({}, "{}"),
    ({"granted": True}, '{"granted":true}'),
    (Truth.YES, '"Truth.YES"'),
]


def test_a_request_with_consent_opens_a_session() -> None:
    then = given().when(open_session(consent=consent(notice="privacy-2024-05"), campaign="spring", subject_id="p-1"))
    event = then.then_one(e.ConsentRecorded)
    assert event.at == START
    assert event.channel_id == CHANNEL
    assert event.consent.timestamp == START
    assert event.consent.notice == "privacy-2024-05"
    assert (event.guest.campaign, event.guest.subject_id) == ("spring", "p-1")
    assert (event.guest.ip_address, event.guest.user_agent) == (IP, USER_AGENT)
    assert then.state.status is Status.PENDING
    assert then.state.accepted_at == START


def test_recorded_consent_has_both_flags_set_to_true() -> None:
    recorded = given().when(open_session()).then_one(e.ConsentRecorded).consent
    assert recorded.data_processing is True
    assert recorded.gdpr_compliant is True


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize(("value", "as_json"), NOT_TRUE)
def test_a_flag_that_is_not_true_refuses_the_session_and_is_recorded(flag: str, value: object, as_json: str) -> None:
    then = given().when(open_session(consent=consent(**{flag: value})))
    event = then.then_one(e.ConsentRefused)
    assert event.failed == (FLAGS[flag],)
    assert event.given == {FLAGS[flag]: as_json}
    assert then.state.status is Status.REFUSED
    assert (then.state.cause, then.state.detail) == (Cause.CONSENT_REFUSED, FLAGS[flag])
    assert then.due() == {}


@pytest.mark.parametrize(
    "as_json", ["null", '"true"', "1", "1.0", "[]", "{}", "false", '"it\'s \\"so\\""', '"line\\nbreak"']
)
def test_a_refused_flag_is_recorded_as_its_original_json(as_json: str) -> None:
    line = f'{{"channelId":"c","ipAddress":"{IP}","userAgent":"","timestamp":"2024-05-20T14:21:59Z",'
    line += f'"consent":{{"dataProcessing":{as_json},"gdprCompliant":true}}}}'
    refused = given().when(open_session(consent=parse_request(line.encode()).consent)).then_one(e.ConsentRefused)
    assert refused.given == {"dataProcessing": as_json}


def test_missing_flags_refuse_the_session() -> None:
    event = given().when(open_session(consent=GuestConsent())).then_one(e.ConsentRefused)
    assert event.failed == ("dataProcessing", "gdprCompliant")
    assert event.given == {"dataProcessing": "null", "gdprCompliant": "null"}


def test_only_the_failed_flags_are_named() -> None:
    event = given().when(open_session(consent=consent(gdpr_compliant="true"))).then_one(e.ConsentRefused)
    assert event.failed == ("gdprCompliant",)


def test_a_refused_value_is_recorded_in_at_most_64_ascii_characters() -> None:
    event = given().when(open_session(consent=consent(data_processing="ü\x00\u2028" * 500))).then_one(e.ConsentRefused)
    text = event.given["dataProcessing"]
    assert text.isascii()
    assert text.isprintable()
    assert len(text) == 64
    assert text.endswith("~")
    assert text.startswith('"\\u00fc\\u0000')


def test_marketing_consent_is_optional_and_recorded() -> None:
    assert given().when(open_session()).then_one(e.ConsentRecorded).consent.marketing is False
    asked = open_session(consent=consent(marketing=True))
    assert given().when(asked).then_one(e.ConsentRecorded).consent.marketing is True


def test_a_refusal_keeps_the_marketing_flag_and_the_notice() -> None:
    asked = open_session(consent=consent(gdpr_compliant=False, marketing=True, notice="privacy-2024-05"))
    event = given().when(asked).then_one(e.ConsentRefused)
    assert (event.marketing, event.notice) == (True, "privacy-2024-05")


def test_a_refusal_keeps_the_guests_data() -> None:
    event = given().when(open_session(consent=GuestConsent())).then_one(e.ConsentRefused)
    assert (event.guest.ip_address, event.guest.user_agent) == (IP, USER_AGENT)


@pytest.mark.parametrize("history", [ATTEMPTING, EXPIRED], ids=["attempting", "expired"])
def test_opening_an_open_session_changes_nothing(history: tuple[e.Event, ...]) -> None:
    given(*history).when(open_session(now=at(5))).then_nothing()


def test_missing_metadata_gets_the_contracts_defaults() -> None:
    asked = GuestRequest(channel_id=CHANNEL, ip_address=IP, user_agent="", timestamp="2024-05-20T14:21:59Z")
    assert (asked.source, asked.campaign, asked.device_type) == ("web", "organic", "desktop")
    assert asked.consent.marketing is False
    assert (asked.idempotency_key, asked.subject_id) == (None, None)


def test_the_fingerprint_is_the_sha256_of_ip_user_agent_and_timestamp() -> None:
    asked = request(ip_address="203.0.113.7", user_agent="Mozilla/5.0", timestamp="2024-05-20T14:21:59Z")
    expected = "740fcf819c99c6a50cb529786a4ca610f546976e54e5d03f48a0dcaf88f4c78a"
    assert fingerprint(asked) == sha256(b"203.0.113.7:Mozilla/5.0:2024-05-20T14:21:59Z").hexdigest() == expected


def test_the_fingerprint_uses_the_guests_values_unchanged() -> None:
    asked = request(ip_address="2001:DB8::1", user_agent="Käfer/1", timestamp="2024-05-20T16:21:59.000+02:00")
    assert fingerprint(asked) == sha256("2001:DB8::1:Käfer/1:2024-05-20T16:21:59.000+02:00".encode()).hexdigest()


@pytest.mark.parametrize("field", ["ip_address", "user_agent", "timestamp"])
def test_the_fingerprint_depends_on_each_of_its_parts(field: str) -> None:
    other = {"ip_address": "203.0.113.8", "user_agent": "curl/8", "timestamp": "2024-05-20T14:22:00Z"}
    assert fingerprint(request(**{field: other[field]})) != fingerprint(request())


def test_the_event_carries_the_fingerprint() -> None:
    event = given().when(open_session()).then_one(e.ConsentRecorded)
    assert event.guest.fingerprint == fingerprint(request())


def test_a_refused_value_is_recorded_as_json() -> None:
    value = {"b": [1, None], "a": "ß"}
    event = given().when(open_session(consent=consent(data_processing=value))).then_one(e.ConsentRefused)
    assert json.loads(event.given["dataProcessing"]) == value
