"""Values that Hypothesis draws for the domain."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import inspect

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.events import EVENT_TYPES, Event, SessionEvent
from guestledger.engine.domain.outcomes import (
    Adoption,
    Channel,
    Created,
    Delivery,
    Failed,
    FailureKind,
    Throttled,
    Verdict,
)
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, InDoubt, RetryAfter, RetryPolicy, WaitBasis

START = datetime(2024, 5, 20, 14, 22, tzinfo=UTC)
HIGHEST = 2**53 - 1  # RFC 8785 takes integers up to here
CONSENTING = GuestRequest(
    channel_id="ch_1",
    ip_address="203.0.113.7",
    user_agent="",
    timestamp="2024-05-20T14:21:59Z",
    consent=GuestConsent(data_processing=True, gdpr_compliant=True),
)
USABLE = Channel(id="ch_1", status="active", protocols=("web_chat",), looked_up_at=START)

texts = st.text(st.characters(exclude_categories=["Cs"]))
short_texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - it adds UTC
jitters = st.floats(0, 1, exclude_max=True)
json_values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def of_type(kind: inspect.Type) -> SearchStrategy[Any]:
    """Values of the type of an event's field."""
    match kind:
        case inspect.Metadata():
            return of_type(kind.type)
        case inspect.UnionType():
            return st.one_of([of_type(option) for option in kind.types])
        case inspect.StrType():
            return texts
        case inspect.IntType():
            return st.integers(-HIGHEST, HIGHEST)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.DateTimeType():
            return moments
        case inspect.UUIDType():
            return st.uuids()
        case inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case inspect.VarTupleType():
            return st.lists(of_type(kind.item_type), max_size=4).map(tuple)
        case inspect.DictType():
            ascii_keys = st.text(st.characters(max_codepoint=127), max_size=12)
            return st.dictionaries(ascii_keys, of_type(kind.value_type), max_size=4)
        case inspect.StructType():
            return st.builds(kind.cls, **{field.name: of_type(field.type) for field in kind.fields})
        case _:
            raise TypeError(f"no event has had a field of {kind} before")


EVENTS_BY_NAME: dict[str, SearchStrategy[Event]] = {
    name: of_type(inspect.type_info(kind)) for name, kind in EVENT_TYPES.items()
}
session_events = st.one_of([one for name, one in EVENTS_BY_NAME.items() if issubclass(EVENT_TYPES[name], SessionEvent)])


# Valid requests

flags = st.just(True) | st.just(True) | json_values | st.just("x" * 70)
guest_consents = st.builds(
    GuestConsent,
    data_processing=flags,
    gdpr_compliant=flags,
    marketing=st.booleans(),
    notice=st.none() | short_texts,
    notice_language=st.none() | st.sampled_from(["en", "pt-BR", "zh-Hant-TW"]),
    notice_sha256=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    collection_method=st.none() | short_texts,
)
requests = st.builds(
    GuestRequest,
    channel_id=short_texts,
    ip_address=st.ip_addresses().map(str),
    user_agent=short_texts,
    timestamp=moments.map(datetime.isoformat),
    consent=guest_consents,
    idempotency_key=st.none() | short_texts,
    subject_id=st.none() | short_texts,
)


# Outcomes

waits_ms = st.sampled_from([0, 1, 999, 2_000, 60_000, MAX_RETRY_AFTER_MS]) | st.integers(0, 120_000)
retry_afters = st.builds(
    RetryAfter,
    given=st.none() | short_texts,
    ms=waits_ms,
    basis=st.sampled_from([basis for basis in WaitBasis if basis.startswith("retry_after")]),
)
throttles = st.builds(Throttled, status=st.just(429), retry_after=retry_afters)
causes = st.sampled_from([Cause.REJECTED, Cause.FORBIDDEN, Cause.SERVER_ERROR, Cause.ANSWER_TIMEOUT, Cause.NO_ADDRESS])
statuses = st.none() | st.sampled_from([400, 401, 403, 404, 409, 422, 500, 503])
failures = st.builds(
    Failed,
    kind=st.sampled_from(FailureKind),
    cause=causes,
    status=statuses,
    detail=short_texts,
    retry_after=st.none() | retry_afters,
)
temporary_failures = st.builds(
    Failed,
    kind=st.sampled_from([kind for kind in FailureKind if kind is not FailureKind.FINAL]),
    cause=causes,
    status=st.none() | st.just(503),
    detail=short_texts,
    retry_after=st.none() | retry_afters,
)
usable_channels = st.builds(
    Channel,
    id=short_texts,
    status=st.just("active"),
    protocols=st.just(("web_chat",)),
    looked_up_at=st.just(START),
    cached=st.booleans(),
)
channels = usable_channels | st.builds(
    Channel,
    id=short_texts,
    problem=st.sampled_from([Cause.CHANNEL_UNKNOWN, Cause.CHANNEL_INACTIVE, Cause.CHANNEL_UNSUPPORTED]),
    detail=short_texts,
    looked_up_at=st.just(START),
)
expiries = st.integers(-10, 7_200).map(lambda seconds: START + timedelta(seconds=seconds))


def creations_until(expires_at: SearchStrategy[datetime | None]) -> SearchStrategy[Created]:
    """Created sessions with these expiry times. Their ids are few, so that several answers bring the same one."""
    return st.builds(
        Created,
        session_id=st.sampled_from(["sess_1", "sess_2", "sess_3"]),
        guest_token=st.just("gt_1"),
        expires_at=expires_at,
        status=st.just("active"),
        latency_ms=st.integers(0, 60_000),
    )


expiring_creations = creations_until(expiries)
creations = creations_until(expiries | expiries | st.none())
accepted_deliveries = st.builds(
    Delivery, accepted=st.just(True), status=st.sampled_from([200, 204]), latency_ms=st.integers(0, 3_000)
)
failed_deliveries = st.builds(
    Delivery,
    accepted=st.just(False),
    gone=st.sampled_from([False, False, False, True]),
    cause=st.none() | causes,
    status=st.none() | st.integers(100, 599),
    detail=short_texts,
    latency_ms=st.integers(0, 3_000),
    retry_after=st.none() | retry_afters,
)
deliveries = accepted_deliveries | failed_deliveries
resolutions = st.sampled_from(Verdict) | st.builds(
    Adoption,
    session_id=st.sampled_from(["sess_1", "sess_found"]),
    expires_at=expiries,
    guest_token=st.none() | st.just("gt_found"),
)
denials = st.builds(
    Denied,
    by=st.sampled_from(DenialReason),
    until=st.integers(-10, 20_000).map(lambda seconds: START + timedelta(seconds=seconds)),
)
lookup_outcomes = channels | usable_channels | throttles | failures | temporary_failures
creation_outcomes = creations | throttles | failures | temporary_failures


# Policies

retry_policies = st.builds(
    RetryPolicy,
    base_ms=st.integers(0, 2_000),
    cap_ms=st.integers(0, 60_000),
    max_failures=st.integers(1, 6),
    deadline_ms=st.integers(0, 30_000),
    in_doubt=st.sampled_from(InDoubt),
)
delivery_policies = st.builds(
    DeliveryPolicy,
    waits_ms=st.lists(st.integers(0, 100_000_000), max_size=5).map(tuple),
    jitter_percent=st.integers(0, 100),
    max_wait_ms=st.integers(0, 100_000_000),
)
retentions = st.none() | st.integers(0, 3)
patient_policies = st.builds(
    Policy,
    creation=st.builds(
        RetryPolicy,
        max_failures=st.just(50),
        deadline_ms=st.just(MAX_RETRY_AFTER_MS),
        in_doubt=st.sampled_from(InDoubt),
    ),
    webhook=delivery_policies,
    webhook_enabled=st.booleans(),
    retention_days=retentions,
)
policies = st.builds(
    Policy,
    creation=retry_policies,
    webhook=delivery_policies,
    webhook_enabled=st.booleans(),
    retention_days=retentions,
)
