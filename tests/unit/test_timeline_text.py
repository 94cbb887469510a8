"""A timeline in a terminal stays readable: narrow, in a pipe, without colours and in ASCII."""

import io
from datetime import timedelta

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType

from guestledger.adapters.cli import show
from guestledger.adapters.cli.stepping import difference_page, event_page
from guestledger.adapters.cli.timeline import timeline as drawn
from guestledger.engine.domain.policy import Policy
from guestledger.engine.replay.timeline import Frame, diff, timeline
from tests.unit import samples
from tests.unit.histories import history_of, in_force, recorded, troubled

WIDTHS = (40, 80, 120, 240)


@pytest.fixture
def frames() -> list[Frame]:
    return timeline(troubled(), in_force(Policy()))


def console(width: int, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


def lines(out: Console, *shown: RenderableType) -> list[str]:
    with out.capture() as captured:
        out.print(*shown)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_shows_all_events_and_waits(width: int, frames: list[Frame]) -> None:
    out = console(width)
    found = lines(out, drawn(frames, out))
    text = " ".join(" ".join(found).split())
    assert max(map(len, found)) <= width
    for expected in ("CreationThrottled", "10 min 0.4 s", "Retry-After of 600 s, plus 400 ms", "throttles 0 to 1"):
        assert expected in text
    for frame in frames:
        assert type(frame.recorded.event).__name__ in text


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_shows_one_event_and_a_difference_in_full(width: int, frames: list[Frame]) -> None:
    out = console(width)
    for shown in (event_page(frames, 3, out), difference_page(diff(frames, 2, 8), out)):
        found = lines(out, shown)
        assert max(map(len, found)) <= width
        assert "throttles" in " ".join(found)


def test_bars_are_to_scale_and_the_shortest_wait_can_be_seen(frames: list[Frame]) -> None:
    out = console(120, "ascii")
    bars = {line.split("#")[0].strip(): line.count("#") for line in lines(out, drawn(frames, out)) if "#" in line}
    assert bars["59 min 35 s"] == 30
    assert bars["10 min 0.4 s"] == round(30 * 600.4 / 3_575)
    assert bars["43 ms"] == 1


def test_ascii_terminal_gets_ascii(frames: list[Frame]) -> None:
    out = console(80, "ascii")
    opened = timeline(troubled()[:3], in_force(Policy()))
    shown = [drawn(opened, out), difference_page(diff(frames, 2, 7), out)]
    assert "\n".join(lines(out, *shown)).isascii()


def test_page_of_an_event_shows_decision_arguments_and_due_steps(frames: list[Frame]) -> None:
    out = console(120)
    found = [line.rstrip() for line in lines(out, event_page(frames, 3, out))]
    assert found[0] == "event 4 of 12: CreationThrottled"
    assert "decision  RecordAttempt; step settle_attempt; today's code decides the same" in found
    assert "    retry_after" in found
    assert "  settle_attempt    14:22:00.017 → none" in found
    assert "  create_session    none → 14:32:00.460" in found


def test_page_of_an_event_shows_what_todays_code_decides_otherwise(frames: list[Frame]) -> None:
    skipped = [*troubled()[:2], recorded(samples.was_attempted(7, at=samples.at(0.017)), 3)]
    changed, out = timeline(skipped, in_force(Policy())), console(120)
    assert any("today's code decides otherwise" in line for line in lines(out, drawn(changed, out)))
    found = lines(out, event_page(changed, 2, out))
    assert any("today's code decides CreationAttempted" in line for line in found)


def test_pages_hold_no_personal_data(frames: list[Frame]) -> None:
    out = console(240)
    pages = [event_page(frames, number, out) for number in range(len(frames))]
    text = "\n".join(lines(out, drawn(frames, out), difference_page(diff(frames, 0, 12), out), *pages))
    for value in (samples.IP, samples.USER_AGENT, samples.TOKEN, samples.FINGERPRINT, "customer-17"):
        assert value not in text


def test_a_field_that_had_no_value_and_has_none_is_no_change() -> None:
    lost = history_of(samples.open_session(), samples.look_up(samples.channel()), samples.begin(), samples.settle())
    frames, out = timeline(lost, in_force(Policy())), console(240)
    assert any((change.field, change.before, change.after) == ("detail", None, "") for change in frames[3].changes)
    found = lines(out, drawn(frames, out), event_page(frames, 3, out), difference_page(diff(frames, 3, 4), out))
    assert not [line for line in found if "detail" in line]


def test_hostile_text_is_escaped() -> None:
    hostile = "x\x1b[31m\x9b2J"
    [first, *others] = troubled()
    bad = [replace(first, actor=hostile, event=replace(first.event, channel_id=hostile)), *others]
    frames, out = timeline(bad, in_force(Policy())), console(240)
    text = "\n".join(lines(out, drawn(frames, out), event_page(frames, 0, out)))
    assert "\\u001b[31m\\u009b2J" in text
    assert not {"\x1b", "\x9b"} & set(text)


SPANS = {
    "0.4 ms": timedelta(microseconds=430),
    "43 ms": timedelta(milliseconds=43),
    "59.007 s": timedelta(seconds=59, milliseconds=7),
    "10 min 0.4 s": timedelta(seconds=600, milliseconds=400),
    "10 min": timedelta(seconds=600),
    "3 h 4 min": timedelta(hours=3, minutes=4, seconds=9),
    "30 d": timedelta(days=30),
    "2 d 5 h": timedelta(days=2, hours=5),
}


@pytest.mark.parametrize(("text", "length"), SPANS.items())
def test_length_is_said_in_its_largest_units(text: str, length: timedelta) -> None:
    assert show.span(length) == text
