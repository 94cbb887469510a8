"""A request under an idempotency key that was used before."""

from guestledger.engine.domain.consent import Evidence, refused_flags
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused
from guestledger.engine.domain.personal import Sealed
from guestledger.engine.domain.request import GuestConsent, GuestRequest


def differing_fields(opened: ConsentRecorded | ConsentRefused, request: GuestRequest) -> tuple[str, ...]:
    """The fields, as paths, in which `request` means something else than the one that opened the session.

    A caller means a channel, a person and a consent. All else may differ in a repeated request, such as time and
    address. A person who was erased cannot be compared.
    """
    consent = opened.consent if isinstance(opened, ConsentRecorded) else opened
    before = opened.given if isinstance(opened, ConsentRefused) else {}
    now = refused_flags(request.consent)
    same = {
        "channelId": opened.channel_id == request.channel_id,
        "subjectId": isinstance(opened.guest.subject_id, Sealed) or opened.guest.subject_id == request.subject_id,
        "consent.dataProcessing": before.get("dataProcessing") == now.get("dataProcessing"),
        "consent.gdprCompliant": before.get("gdprCompliant") == now.get("gdprCompliant"),
        "consent.marketing": consent.marketing == request.consent.marketing,
        "consent.notice": consent.notice == request.consent.notice,
        **_as_asked(consent.evidence, request.consent),
    }
    return tuple(field for field, unchanged in same.items() if not unchanged)


def _as_asked(recorded: Evidence, consent: GuestConsent) -> dict[str, bool]:
    """What a request leaves open, the ledger's terms may have completed. Without a notice nothing of it is recorded."""
    notice = recorded.notice
    return {
        "consent.noticeLanguage": notice is None or consent.notice_language in (None, notice.language),
        "consent.noticeSha256": notice is None or consent.notice_sha256 in (None, notice.sha256),
        "consent.collectionMethod": consent.collection_method in (None, recorded.collection_method),
    }
