"""The consent record of a session, read from its history. Field names are those of ISO/IEC TS 27560:2023."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Evidence
from guestledger.engine.domain.consent_terms import ConsentFlag, ConsentPurpose, Party, PrivacyNotice, not_stated
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.log.recorded import RecordedEvent

SCHEMA_VERSION = "ISO/IEC TS 27560:2023"


class ConsentState(StrEnum):
    """The state of a consent. Only `GIVEN` allows the processing."""

    GIVEN = "given"
    NOT_GIVEN = "not_given"
    """The optional flag was not set."""
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


class PurposeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One purpose, with the state of the consent to it. `None`: not stated, here and in all parts of a record."""

    flag: ConsentFlag
    state: ConsentState
    purpose: str | None
    lawful_basis: str | None
    pii_information: tuple[str, ...] | None
    pii_controllers: tuple[str, ...] | None
    """Ids of `parties`."""
    collection_method: str | None
    processing_method: str | None
    storage_locations: tuple[str, ...] | None
    retention_period: str | None
    jurisdiction: str | None
    recipient_third_parties: tuple[str, ...] | None
    """Ids of `parties`."""
    withdrawal_method: str | None
    privacy_rights: str | None
    authority_party: str | None


class PiiProcessing(msgspec.Struct, frozen=True, kw_only=True):
    """What the guest was asked."""

    privacy_notice: PrivacyNotice | None
    language: str | None
    purposes: tuple[PurposeRecord, ...]


class PartyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A controller or a recipient."""

    party_id: str
    party_name: str | None
    party_address: str | None
    party_contact: str | None
    party_type: str | None


class ConsentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the consent."""

    event_time: datetime
    event_state: ConsentState
    event_type: str | None
    """How consent was expressed."""
    validity_duration: str | None
    entity_id: str
    """Who did it: the guest, or who asked for the withdrawal."""
    flags: tuple[ConsentFlag, ...]
    """The consents that it is about."""
    reason: str | None
    recorded_at: datetime
    """By the database's clock."""
    recorded_by: str
    position: int
    """Of the event in the log."""


class ConsentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record as of now. Only the guest's answers change later, never what the guest was asked."""

    schema_version: str
    record_version: int
    record_id: UUID
    """The session's id, the engine's own."""
    pii_principal_id: str
    """The commitment to the caller's `subjectId`; the session's id if there is none."""
    state: ConsentState
    terms_version: str | None
    flags: dict[str, str]
    """The flags of the request, as JSON text."""
    pii_processing: PiiProcessing
    parties: tuple[PartyRecord, ...]
    events: tuple[ConsentEvent, ...]
    not_stated: tuple[str, ...]
    """The mandatory fields that are open, as paths in `ConsentTerms` and the request."""


def consent_record(history: Sequence[RecordedEvent]) -> ConsentRecord:
    """The consent record of a whole stream. Pure."""
    opened = history[0].event
    assert isinstance(opened, e.ConsentRecorded | e.ConsentRefused), "every session starts with the guest's consent"
    evidence = opened.consent.evidence if isinstance(opened, e.ConsentRecorded) else opened.evidence
    subject, stream_id = opened.guest.subject_id, history[0].stream_id
    principal = str(stream_id) if subject is None else _shown(subject)
    changes = tuple(_changes(history, principal, evidence))
    states = {flag: change.event_state for change in changes for flag in change.flags}
    notice, terms = evidence.notice, evidence.terms
    return ConsentRecord(
        schema_version=SCHEMA_VERSION,
        record_version=evidence.record_version,
        record_id=stream_id,
        pii_principal_id=principal,
        state=states[ConsentFlag.DATA_PROCESSING],
        terms_version=terms.version,
        flags=_flags(opened),
        pii_processing=PiiProcessing(
            privacy_notice=notice,
            language=notice.language if notice else None,
            purposes=tuple(_purpose(purpose, states, evidence) for purpose in _purposes(evidence, states)),
        ),
        parties=tuple(map(_party, (*terms.controllers, *terms.recipients))),
        events=changes,
        not_stated=tuple(_not_stated(evidence, states)),
    )


def _shown(subject: str) -> str:
    return f"sealed:{str.__str__(subject)}" if isinstance(subject, Sealed) else subject


def _flags(opened: e.ConsentRecorded | e.ConsentRefused) -> dict[str, str]:
    refused = opened.given if isinstance(opened, e.ConsentRefused) else {}
    marketing = opened.consent.marketing if isinstance(opened, e.ConsentRecorded) else opened.marketing
    sufficient = {"dataProcessing": "true", "gdprCompliant": "true"}
    return {**sufficient, **refused, "marketing": "true" if marketing else "false"}


def _changes(history: Sequence[RecordedEvent], principal: str, evidence: Evidence) -> Iterator[ConsentEvent]:
    def change(
        recorded: RecordedEvent,
        state: ConsentState,
        flags: Sequence[ConsentFlag],
        by: str = principal,
        reason: str | None = None,
    ) -> ConsentEvent:
        return ConsentEvent(
            event_time=recorded.event.at,
            event_state=state,
            event_type=evidence.terms.consent_type,
            validity_duration=evidence.terms.validity_duration,
            entity_id=by,
            flags=tuple(flags),
            reason=reason,
            recorded_at=recorded.recorded_at,
            recorded_by=recorded.actor,
            position=recorded.position,
        )

    given = list(ConsentFlag)
    for recorded in history:
        match recorded.event:
            case e.ConsentRecorded(consent=consent):
                if not consent.marketing:
                    given.remove(ConsentFlag.MARKETING)
                yield change(recorded, ConsentState.GIVEN, given)
            case e.ConsentRefused():
                # No consent to marketing either: what the guest answered as a whole is not valid.
                yield change(recorded, ConsentState.REFUSED, given)
            case e.MarketingWithdrawn(requested_by=by, reason=reason):
                given.remove(ConsentFlag.MARKETING)
                yield change(recorded, ConsentState.WITHDRAWN, [ConsentFlag.MARKETING], by, reason)
            case e.ConsentWithdrawn(requested_by=by, reason=reason):
                yield change(recorded, ConsentState.WITHDRAWN, given, by, reason)
            case _:
                pass


States = dict[ConsentFlag, ConsentState]


def _purposes(evidence: Evidence, states: States) -> tuple[ConsentPurpose, ...]:
    """The purposes of the terms; for a consent without one, an empty one."""
    stated = evidence.terms.purposes
    return (*stated, *(ConsentPurpose(flag=flag) for flag in states if flag not in {each.flag for each in stated}))


def _purpose(purpose: ConsentPurpose, states: States, evidence: Evidence) -> PurposeRecord:
    terms = evidence.terms
    return PurposeRecord(
        flag=purpose.flag,
        state=states.get(purpose.flag, ConsentState.NOT_GIVEN),
        purpose=purpose.purpose,
        lawful_basis=purpose.lawful_basis,
        pii_information=purpose.pii,
        pii_controllers=tuple(party.id for party in terms.controllers) or None,
        collection_method=evidence.collection_method or terms.collection_method,
        processing_method=purpose.processing_method,
        storage_locations=terms.storage_locations,
        retention_period=purpose.retention_period,
        jurisdiction=terms.jurisdiction,
        recipient_third_parties=purpose.recipients,
        withdrawal_method=terms.withdrawal_method,
        privacy_rights=terms.privacy_rights,
        authority_party=terms.authority,
    )


def _party(party: Party) -> PartyRecord:
    return PartyRecord(
        party_id=party.id,
        party_name=party.name,
        party_address=party.address,
        party_contact=party.contact,
        party_type=party.type,
    )


def _not_stated(evidence: Evidence, states: States) -> Iterator[str]:
    notice, terms = evidence.notice, evidence.terms
    if notice is None:
        yield "notice"
    else:
        yield from (f"notice.{name}" for name in ("language", "sha256") if getattr(notice, name) is None)
    if evidence.collection_method is None and terms.collection_method is None:
        yield "collection_method"
    yield from not_stated(terms)
    if ConsentFlag.MARKETING in states and all(each.flag is not ConsentFlag.MARKETING for each in terms.purposes):
        yield "purposes (marketing)"
