"""The terms under which guests consent: what a consent record needs beyond the request (ISO/IEC TS 27560:2023).

The mandatory fields are those that the W3C DPV guide "Consent Records and Receipts as per ISO/IEC TS 27560:2023" lists, with
what the GDPR demands besides (lawful basis, collection method).
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from guestledger.engine.domain.request import SHOWABLE, Language, Sha256

MAX_BYTES = 16 * 1024
"""Of the terms as JSON, without the notices: each consent is recorded with them."""

_Text = Annotated[str, Meta(min_length=1, max_length=1_000, pattern=SHOWABLE)]


class ConsentFlag(StrEnum):
    """The flag of a guest request by which a guest consents to a purpose."""

    DATA_PROCESSING = "dataProcessing"
    """Together with `gdprCompliant`, without which it is refused."""
    MARKETING = "marketing"


class TermsPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A part of the terms. `None`: not stated. Terms are checked before they are used, not when they are read in the log."""


class Party(TermsPart, frozen=True, kw_only=True):
    """A controller, or a third party that receives data."""

    id: str
    """How purposes name it."""
    name: str | None = None
    address: str | None = None
    contact: str | None = None
    """Such as the e-mail address of the data protection officer."""
    type: str | None = None
    """Such as `controller`, `processor` or `recipient`."""


class ConsentPurpose(TermsPart, frozen=True, kw_only=True):
    """One purpose of the processing."""

    flag: ConsentFlag
    purpose: str | None = None
    """What the data is used for, in the words of the notice."""
    lawful_basis: str | None = None
    pii: tuple[str, ...] | None = None
    """The kinds of personal data."""
    processing_method: str | None = None
    """Optional."""
    retention_period: str | None = None
    recipients: tuple[str, ...] | None = None
    """The ids of `recipients` that receive the data; empty: nobody does."""


class PrivacyNotice(TermsPart, frozen=True, kw_only=True):
    """A privacy notice in one language. A request's `notice` and `noticeLanguage` select it."""

    id: str
    language: str | None = None
    sha256: str | None = None
    """Of the text that was shown, as lowercase hex."""
    url: str | None = None
    """Optional: where it can be read."""


class ConsentTerms(TermsPart, frozen=True, kw_only=True):
    """What the ledger's operator states about the consent that guests give. Nothing is stated by default.

    Each session is recorded with the terms of its time. No personal data of guests.
    """

    version: str | None = None
    """Your own name for these terms, such as `2024-05`."""
    controllers: tuple[Party, ...] = ()
    recipients: tuple[Party, ...] = ()
    purposes: tuple[ConsentPurpose, ...] = ()
    notices: tuple[PrivacyNotice, ...] = ()
    consent_type: str | None = None
    """How consent is expressed, such as `explicit: a box that the guest ticks`."""
    collection_method: str | None = None
    """How the data is collected. A request's `collectionMethod` goes first."""
    validity_duration: str | None = None
    """How long a consent is valid, such as `until withdrawn`."""
    jurisdiction: str | None = None
    storage_locations: tuple[str, ...] | None = None
    withdrawal_method: str | None = None
    """How a guest withdraws."""
    privacy_rights: str | None = None
    """Optional."""
    authority: str | None = None
    """Optional: the supervisory authority."""


def checked_terms(given: Any) -> ConsentTerms:
    """The terms in `given`, a struct or plain objects. Raises `ValueError`, which names the field."""
    try:
        terms = msgspec.convert(msgspec.to_builtins(given), ConsentTerms)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$.", "`")) from None
    _check_texts(msgspec.to_builtins(terms), "")
    for number, notice in enumerate(terms.notices):
        _check(notice.language, Language | None, f"notices[{number}].language", "a language tag such as en")
        _check(notice.sha256, Sha256 | None, f"notices[{number}].sha256", "64 lowercase hex digits")
    known = [party.id for party in (*terms.controllers, *terms.recipients)]
    for twice in {id_ for id_ in known if known.count(id_) > 1}:
        raise ValueError(f"two parties have the id {twice!r}")
    for number, purpose in enumerate(terms.purposes):
        for id_ in purpose.recipients or ():
            if id_ not in known:
                raise ValueError(f"purposes[{number}].recipients: no party has the id {id_!r}")
    size = len(msgspec.json.encode(msgspec.structs.replace(terms, notices=())))
    if size > MAX_BYTES:
        raise ValueError(
            f"{size} bytes without the notices, and each consent is recorded with them: {MAX_BYTES} at most"
        )
    return terms


def _check_texts(value: Any, path: str) -> None:
    match value:
        case dict():
            for name, item in value.items():
                _check_texts(item, f"{path}.{name}" if path else name)
        case list() | tuple():
            for number, item in enumerate(value):
                _check_texts(item, f"{path}[{number}]")
        case _:
            _check(value, _Text, path, "1 to 1,000 characters, without control characters")


def _check(value: Any, kind: Any, path: str, expected: str) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise ValueError(f"{path} must be {expected}") from None


def not_stated(terms: ConsentTerms) -> list[str]:
    """The mandatory fields that the terms leave open, as paths. Notices are not in it: requests may state theirs."""
    return list(_not_stated(terms))


def _not_stated(terms: ConsentTerms) -> Iterator[str]:
    if not terms.controllers:
        yield "controllers"
    for kind in ("controllers", "recipients"):
        for number, party in enumerate(getattr(terms, kind)):
            yield from _open(party, f"{kind}[{number}].", "name", "address", "contact", "type")
    if not any(purpose.flag is ConsentFlag.DATA_PROCESSING for purpose in terms.purposes):
        yield "purposes"
    for number, purpose in enumerate(terms.purposes):
        fields = ("purpose", "lawful_basis", "pii", "retention_period", "recipients")
        yield from _open(purpose, f"purposes[{number}].", *fields)
    fields = ("consent_type", "validity_duration", "jurisdiction", "storage_locations", "withdrawal_method")
    yield from _open(terms, "", *fields)


def _open(part: TermsPart, prefix: str, *fields: str) -> Iterator[str]:
    """The fields without a value. Only `recipients` may be empty: nobody gets the data."""
    for field in fields:
        value = getattr(part, field)
        if value is None or (value == () and field != "recipients"):
            yield f"{prefix}{field}"
