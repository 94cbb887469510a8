"""The consent terms: what is checked, what is open, and what is recorded with each consent."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from guestledger.adapters.consent_terms import consent_terms, warn_if_open
from guestledger.adapters.settings import InvalidSettings
from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Evidence
from guestledger.engine.domain.consent_terms import ConsentTerms, Party, PrivacyNotice, checked_terms, not_stated
from guestledger.engine.domain.policy import Policy
from tests.unit.given import given
from tests.unit.samples import TERMS, consent, open_session

EN = PrivacyNotice(id="privacy-1", language="en", sha256="ab" * 32)
DE = PrivacyNotice(id="privacy-1", language="de", sha256="cd" * 32)
BILINGUAL = Policy(consent_terms=replace(TERMS, notices=(EN, DE)))


def evidence(policy: Policy = BILINGUAL, **asked: Any) -> Evidence:
    event = given().when(open_session(consent=consent(**asked)), policy).then_one(e.ConsentRecorded)
    return event.consent.evidence


def test_a_consent_is_recorded_with_the_whole_terms_of_its_time() -> None:
    recorded = evidence(notice="privacy-1")
    assert recorded.terms == TERMS, "without the notices: the one that was shown is recorded by itself"
    assert recorded.record_version == 1


def test_a_refusal_is_recorded_with_the_terms_too() -> None:
    asked = open_session(consent=consent(data_processing=False, notice="privacy-1", notice_language="de"))
    event = given().when(asked, BILINGUAL).then_one(e.ConsentRefused)
    assert (event.evidence.terms, event.evidence.notice) == (TERMS, DE)


def test_by_default_nothing_is_stated_and_nothing_invented() -> None:
    assert evidence(Policy()) == Evidence(record_version=1)
    assert msgspec.json.encode(ConsentTerms()) == b"{}"


def test_the_notice_that_was_shown_is_completed_from_the_terms() -> None:
    assert evidence(notice="privacy-1", notice_language="de").notice == DE
    assert evidence(notice="privacy-1", notice_sha256="ab" * 32).notice == EN


def test_a_notice_is_not_guessed_among_several() -> None:
    assert evidence(notice="privacy-1").notice == PrivacyNotice(id="privacy-1")
    assert evidence().notice is None
    assert evidence(notice="privacy-2").notice == PrivacyNotice(id="privacy-2")


def test_what_the_request_says_goes_before_the_terms() -> None:
    asked = evidence(notice="privacy-1", notice_language="en", notice_sha256="ef" * 32, collection_method="by phone")
    assert asked.notice == PrivacyNotice(id="privacy-1", language="en", sha256="ef" * 32)
    assert asked.collection_method == "by phone"


def test_complete_terms_leave_nothing_open() -> None:
    assert not_stated(TERMS) == []
    assert checked_terms(TERMS) == TERMS


def test_every_mandatory_field_that_is_open_is_named() -> None:
    assert not_stated(ConsentTerms()) == [
        "controllers",
        "purposes",
        "consent_type",
        "validity_duration",
        "jurisdiction",
        "storage_locations",
        "withdrawal_method",
    ]
    [first, second] = TERMS.purposes
    partly = replace(
        TERMS,
        controllers=(Party(id="example"),),
        purposes=(first, replace(second, pii=(), retention_period=None, recipients=None)),
        storage_locations=(),
    )
    assert not_stated(partly) == [
        *(f"controllers[0].{name}" for name in ("name", "address", "contact", "type")),
        *(f"purposes[1].{name}" for name in ("pii", "retention_period", "recipients")),
        "storage_locations",
    ]


def test_terms_without_the_purpose_of_the_processing_are_incomplete() -> None:
    assert not_stated(replace(TERMS, purposes=TERMS.purposes[1:])) == ["purposes"]


@pytest.mark.parametrize(
    ("given_terms", "named"),
    [
        ({"controler": []}, "controler"),
        ({"jurisdiction": ""}, "jurisdiction must be 1 to 1,000 characters"),
        ({"jurisdiction": "x" * 1_001}, "jurisdiction"),
        ({"jurisdiction": "I\nE"}, "jurisdiction"),
        ({"version": 2}, "version"),
        ({"notices": [{"id": "n", "sha256": "AB"}]}, r"notices\[0\].sha256 must be 64 lowercase hex digits"),
        ({"notices": [{"id": "n", "language": "e n"}]}, r"notices\[0\].language"),
        ({"purposes": [{"flag": "gdprCompliant"}]}, r"purposes\[0\].flag|purposes\[...\].flag"),
        ({"purposes": [{"flag": "marketing", "recipients": ["nobody"]}]}, r"purposes\[0\].recipients: .*'nobody'"),
        ({"controllers": [{"id": "a"}], "recipients": [{"id": "a"}]}, "two parties have the id 'a'"),
        ({"storage_locations": ["y" * 999] * 17}, "bytes"),
    ],
)
def test_invalid_terms_are_refused_and_the_field_is_named(given_terms: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        checked_terms(given_terms)


def test_terms_are_read_from_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "consent.toml"
    file.write_text('version = "1"\n[[purposes]]\nflag = "dataProcessing"\npurpose = "Chat"\n')
    terms = consent_terms(file, TERMS)
    assert (terms.version, terms.purposes[0].purpose, terms.controllers) == ("1", "Chat", ())
    assert consent_terms(None, TERMS) == TERMS


@pytest.mark.parametrize("content", [None, b"version = ", b'unknown = "1"', b"\xff"])
def test_a_file_that_cannot_be_used_is_named_with_its_setting(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "consent.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSettings, match=r"GUESTLEDGER_CONSENT_TERMS: .*consent\.toml"):
        consent_terms(file, ConsentTerms())


def test_incomplete_terms_are_logged_and_none_at_all_are_not(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_open(ConsentTerms())
    warn_if_open(TERMS)
    assert caplog.messages == []
    warn_if_open(replace(TERMS, jurisdiction=None))
    [message] = caplog.messages
    assert message.endswith("leave out: jurisdiction")
