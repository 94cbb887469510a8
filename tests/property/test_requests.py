"""Any input is a request that can be opened and stored, or is rejected without repeating its values."""

import json
from typing import Any

from hypothesis import given, strategies as st

from guestledger.engine.domain.commands import OpenSession
from guestledger.engine.domain.errors import InvalidRequest
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestRequest, checked, parse_request
from guestledger.engine.domain.session import Session
from guestledger.engine.log.codec import decode, encode, wire_name
from tests.property.invariants import SESSION
from tests.property.strategies import START, flags, json_values, moments, requests
from tests.unit.samples import HMAC_KEY

any_text = st.text()  # includes lone surrogates
timestamps = moments.map(lambda moment: moment.isoformat()) | any_text
addresses = st.ip_addresses().map(str) | st.builds("{}%{}".format, st.ip_addresses(v=6), any_text) | any_text
consents = st.fixed_dictionaries(
    {}, optional={"dataProcessing": flags, "gdprCompliant": flags, "marketing": st.booleans(), "notice": any_text}
)
plausible = st.fixed_dictionaries(
    {
        "channelId": any_text,
        "ipAddress": addresses,
        "userAgent": any_text,
        "timestamp": timestamps,
    },
    optional={"consent": consents, "campaign": any_text, "subjectId": st.none() | any_text},
)
odd = st.dictionaries(st.sampled_from(["channelId", "ipAddress", "userAgent", "consent"]) | any_text, json_values)
bodies = plausible | st.builds(lambda body, more: {**body, **more}, plausible, odd)
SECRET = "q7-secret-q7"


def check_storable(request: GuestRequest) -> None:
    """A valid request can be opened, stored and read back."""
    (event,) = decide(Session(id=SESSION), OpenSession(hmac_key=HMAC_KEY, request=request, now=START), Policy())
    assert decode(wire_name(event), event.schema_version, encode(event)) == event
    asked = request.consent
    consents = asked.data_processing is True and asked.gdpr_compliant is True
    assert type(event) is (ConsentRecorded if consents else ConsentRefused)
    assert "\\u0000" not in encode(event).replace("\\\\", ""), "PostgreSQL cannot read it from JSON"


@given(body=bodies, escape=st.booleans())
def test_any_json_object_is_a_storable_request_or_is_rejected(body: dict[str, Any], escape: bool) -> None:
    line = json.dumps(body, ensure_ascii=escape).encode(errors="surrogatepass")
    try:
        request = parse_request(line)
    except InvalidRequest:
        return
    assert checked(request) == request
    check_storable(request)


@given(line=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_invalid_line_raises_invalid_request(line: bytes) -> None:
    try:
        parse_request(line)
    except InvalidRequest as error:
        assert str(error)  # noqa: PT017 - no other error may be raised
    else:
        raise AssertionError("this line is not a request")


@given(request=requests)
def test_a_valid_request_built_in_python_can_be_opened(request: GuestRequest) -> None:
    assert checked(request) == request
    check_storable(request)


@given(
    given=st.fixed_dictionaries(
        {},
        optional={
            name: any_text | json_values | st.binary() | st.datetimes() | st.uuids()
            for name in ("channel_id", "ip_address", "user_agent", "timestamp", "source", "subject_id")
        },
    )
)
def test_any_request_built_in_python_is_rejected_or_can_be_opened(given: dict[str, Any]) -> None:
    plain = {"channel_id": "ch_1", "ip_address": "203.0.113.7", "user_agent": "", "timestamp": "2024-05-20T14:21:59Z"}
    try:
        request = checked(GuestRequest(**{**plain, **given}))
    except InvalidRequest:
        return
    check_storable(request)


@given(
    field=st.sampled_from(["channelId", "ipAddress", "userAgent", "timestamp", "source", "consent", "subjectId"]),
    before=any_text,
    after=any_text,
    bent=st.sampled_from([lambda text: text, lambda text: [text], lambda text: {text: text}, lambda text: text * 200]),
)
def test_no_rejection_repeats_the_given_value(field: str, before: str, after: str, bent: Any) -> None:
    body = {
        "channelId": "ch_1",
        "ipAddress": "203.0.113.7",
        "userAgent": "",
        "timestamp": "2024-05-20T14:21:59Z",
        field: bent(before + SECRET + after),
    }
    try:
        parse_request(json.dumps(body).encode())
    except InvalidRequest as error:
        assert SECRET not in str(error)  # noqa: PT017 - it may also be valid
