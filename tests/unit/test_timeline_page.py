"""The page of a timeline: whole, safe to open, and to scale."""

import re

from msgspec.structs import replace

from guestledger.adapters.pages.timeline import timeline_page
from guestledger.engine.domain.policy import Policy
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.replay.timeline import timeline
from tests.pages import Page
from tests.unit import samples
from tests.unit.histories import history_of, in_force, troubled

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 731*977 }}"


def page_of(history: list[RecordedEvent], *, revealed: bool = False) -> Page:
    return Page(timeline_page(timeline(history, in_force(Policy())), revealed=revealed))


def test_page_shows_each_event_its_decision_and_its_waits() -> None:
    page = page_of(troubled())
    words = " ".join(page.text.split())
    assert sum(tag == "details" for tag, _ in page.elements) == 12
    for expected in (
        "Decision: RecordAttempt",
        "Today's code decides the same",
        "outcome.retry_after.given",
        "wait: Retry-After of 600 s, plus 400 ms",
        "late: create_session was due, until a worker ran it",
        "enforce_deadline",
    ):
        assert expected in words


def test_waits_are_drawn_to_scale_and_none_is_hidden() -> None:
    page = page_of(troubled())
    pieces = [attrs for tag, attrs in page.elements if tag == "rect"]
    widths = [float(str(piece["width"]).rstrip("%")) for piece in pieces]
    assert min(widths) > 0
    assert "Until the guest had an answer: 10 min 19.1 s" in page.text
    assert "All of it: 1 h 10 min" in page.text
    assert max(widths) == 100, "the longest wait of the rows"
    for piece, width in zip(pieces, widths, strict=True):
        assert float(str(piece["x"]).rstrip("%")) + width <= 100.001


def test_page_loads_nothing_and_allows_only_its_own_style() -> None:
    page = page_of(troubled())
    [policy] = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]+'; form-action 'none'; base-uri 'none'", policy or ""
    )
    assert not [attrs for _, attrs in page.elements if {"src", "href", "style"} & attrs.keys()]


def test_hostile_value_stays_text() -> None:
    [first, *others] = troubled()
    history = [replace(first, actor=HOSTILE, event=replace(first.event, channel_id=HOSTILE)), *others]
    page, harmless = page_of(history), page_of(troubled())
    assert page.text.count(HOSTILE) >= 3
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in harmless.elements}
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]


def test_personal_data_is_masked_unless_it_is_revealed() -> None:
    masked, revealed = page_of(troubled()), page_of(troubled(), revealed=True)
    assert "is masked" in masked.text
    assert "keep this page private" in revealed.text
    for value in (samples.IP, samples.USER_AGENT, samples.TOKEN, samples.FINGERPRINT, "customer-17"):
        assert value not in masked.text
        assert value in revealed.text


def test_session_with_one_event_has_a_page() -> None:
    page = page_of(history_of(samples.open_session(consent=samples.consent(gdpr_compliant=False))))
    assert "ConsentRefused" in page.text
    assert not [attrs for tag, attrs in page.elements if tag == "svg"]
