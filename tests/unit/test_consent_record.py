"""The consent record, read from a history."""

from datetime import datetime
from uuid import uuid4

from msgspec.structs import replace

from guestledger.adapters.cli.consent import stated
from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Evidence
from guestledger.engine.domain.consent_terms import ConsentFlag
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.consent_record import ConsentRecord, ConsentState, consent_record
from tests.unit.samples import (
    ACTIVE,
    EVIDENCE,
    GUEST,
    NOTICE,
    SESSION,
    START,
    TERMS,
    at,
    marketing_withdrawn,
    recorded_consent,
    was_recorded,
    was_refused,
    was_withdrawn,
)

WITH_MARKETING = was_recorded(consent=recorded_consent(marketing=True))


def record(*events: e.Event) -> ConsentRecord:
    return consent_record([recorded(event, number) for number, event in enumerate(events)])


def recorded(event: e.Event, number: int, recorded_at: datetime = START) -> RecordedEvent:
    return RecordedEvent(
        position=100 + number,
        stream_id=SESSION,
        version=number + 1,
        event=event,
        recorded_at=recorded_at,
        correlation_id="",
        causation_id=uuid4(),
        actor="open_session",
        data="",
        leaf_hash=b"",
    )


def states(found: ConsentRecord) -> dict[ConsentFlag, ConsentState]:
    return {purpose.flag: purpose.state for purpose in found.pii_processing.purposes}


def test_a_record_holds_everything_the_guest_was_asked() -> None:
    found = record(*ACTIVE)
    assert (found.schema_version, found.record_version, found.record_id) == ("ISO/IEC TS 27560:2023", 1, SESSION)
    assert (found.state, found.terms_version, found.not_stated) == (ConsentState.GIVEN, "2024-05", ())
    assert (found.pii_processing.privacy_notice, found.pii_processing.language) == (NOTICE, "en")
    [processing, marketing] = found.pii_processing.purposes
    assert (processing.purpose, processing.lawful_basis) == (
        "To answer you in the chat",
        TERMS.purposes[0].lawful_basis,
    )
    assert (processing.pii_controllers, processing.recipient_third_parties) == (("example",), ("chat",))
    assert (processing.jurisdiction, processing.storage_locations) == ("IE", ("IE",))
    assert processing.collection_method == "web form"
    assert marketing.recipient_third_parties == ()
    assert [party.party_id for party in found.parties] == ["example", "chat"]


def test_marketing_that_was_not_asked_for_is_not_given() -> None:
    assert states(record(*ACTIVE)) == {
        ConsentFlag.DATA_PROCESSING: ConsentState.GIVEN,
        ConsentFlag.MARKETING: ConsentState.NOT_GIVEN,
    }
    assert set(states(record(WITH_MARKETING)).values()) == {ConsentState.GIVEN}


def test_a_refusal_gives_no_consent_at_all() -> None:
    found = record(was_refused())
    assert found.state is ConsentState.REFUSED
    assert set(states(found).values()) == {ConsentState.REFUSED}
    assert found.flags == {"dataProcessing": "true", "gdprCompliant": '"true"', "marketing": "true"}


def test_withdrawals_stand_in_the_record_with_time_and_person() -> None:
    found = record(WITH_MARKETING, marketing_withdrawn(at=at(60)), was_withdrawn(at=at(90)))
    assert found.state is ConsentState.WITHDRAWN
    assert set(states(found).values()) == {ConsentState.WITHDRAWN}
    given, marketing, whole = found.events
    assert (given.event_state, set(given.flags), given.event_time) == (ConsentState.GIVEN, set(ConsentFlag), START)
    assert (marketing.flags, marketing.event_time, marketing.reason) == ((ConsentFlag.MARKETING,), at(60), None)
    assert (whole.flags, whole.entity_id, whole.reason) == ((ConsentFlag.DATA_PROCESSING,), "guest", "by e-mail")
    assert [event.position for event in found.events] == [100, 101, 102]


def test_marketing_alone_can_be_withdrawn_in_the_record() -> None:
    found = record(WITH_MARKETING, marketing_withdrawn())
    assert found.state is ConsentState.GIVEN
    assert states(found)[ConsentFlag.MARKETING] is ConsentState.WITHDRAWN


def test_the_principal_is_the_sealed_subject_or_the_session() -> None:
    sealed = was_recorded(guest=replace(GUEST, subject_id=Sealed("c0ffee")))
    assert record(sealed).pii_principal_id == "sealed:c0ffee"
    assert record(sealed).events[0].entity_id == "sealed:c0ffee"
    assert record(was_recorded(guest=replace(GUEST, subject_id=None))).pii_principal_id == str(SESSION)


def test_an_empty_record_says_of_each_field_that_it_is_not_stated() -> None:
    found = record(was_recorded(consent=recorded_consent(evidence=Evidence(record_version=1), marketing=True)))
    assert found.not_stated[:3] == ("notice", "collection_method", "controllers")
    assert found.not_stated[-1] == "purposes (marketing)"
    shown = stated(found)
    assert shown["pii_processing"]["language"] == "not stated"
    [processing, marketing] = shown["pii_processing"]["purposes"]
    assert (processing["flag"], processing["state"]) == ("dataProcessing", "given")
    assert {processing[name] for name in ("purpose", "pii_controllers", "recipient_third_parties")} == {"not stated"}
    assert marketing["flag"] == "marketing"


def test_a_notice_without_hash_or_language_is_named() -> None:
    partly = replace(EVIDENCE, notice=replace(NOTICE, sha256=None, language=None))
    found = record(was_recorded(consent=recorded_consent(evidence=partly)))
    assert found.not_stated == ("notice.language", "notice.sha256")
