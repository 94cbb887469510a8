"""`ledger.find` and the search for a time in the log."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from guestledger.adapters.postgres.projections.session_finder import PostgresSessionFinder
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.session_finder import FindFilter, Span
from tests.unit.samples import CHANNEL, START, consent, request

STEP = timedelta(seconds=1)


async def test_a_span_of_the_log_is_what_was_recorded_between_two_times(ledger: Ledger, sql: Any) -> None:
    """Against a plain look at every batch: gaps in positions, several batches at one time, times before and after all."""
    draw = random.Random(7)
    position, moment, batches = -1, START, []
    for _ in range(300):
        position, moment = position + draw.randint(1, 9), moment + draw.choice((0, 1, 1, 5)) * STEP
        batches.append((position, moment))
        await sql("INSERT INTO batches (position, recorded_at) VALUES ($1, $2)", position, moment)
    finder = ledger._finder._sessions
    for _ in range(300):
        since, until = sorted(START + draw.randint(-5, 600) * STEP for _ in range(2))
        after = max((at for at, when in batches if when < since), default=-1)
        upto = max((at for at, when in batches if when <= until), default=-1)
        assert await finder.span(since, until) == Span(after, upto)


async def test_a_span_of_an_empty_log_is_empty(ledger: Ledger) -> None:
    assert isinstance(ledger._finder._sessions, PostgresSessionFinder)
    assert await ledger._finder._sessions.span(START, START + STEP) == Span(-1, -1)


async def opened(ledger: Ledger, **given: Any) -> Session:
    return await ledger.open_session(request(**given))


async def found(ledger: Ledger, **wanted: Any) -> list[Any]:
    return [one.session.id for one in (await ledger.find(FindFilter(**wanted))).found]


async def test_sessions_are_found_nearest_to_the_time_first(ledger: Ledger) -> None:
    sessions = [await opened(ledger) for _ in range(3)]
    moments = [(await ledger.history(session.id))[-1].recorded_at for session in sessions]
    for number, moment in enumerate(moments):
        findings = await ledger.find(FindFilter(around=moment))
        nearest = findings.found[0]
        assert (nearest.session.id, nearest.recorded_at) == (sessions[number].id, moment)
        assert nearest.event == "SessionCreated"
        distances = [abs(one.recorded_at - moment) for one in findings.found]
        assert distances == sorted(distances)
        assert {one.session.id for one in findings.found} == {session.id for session in sessions}


async def test_a_time_finds_a_session_by_any_of_its_events(ledger: Ledger) -> None:
    session = await opened(ledger)
    for recorded in await ledger.history(session.id):
        findings = await ledger.find(FindFilter(around=recorded.recorded_at, within=timedelta(microseconds=1)))
        assert [one.session.id for one in findings.found] == [session.id]


async def test_all_filters_must_match(ledger: Ledger) -> None:
    mine = await opened(ledger, ip_address="203.0.113.8", subject_id="crm-7", idempotency_key="order-1")
    other = await opened(ledger, ip_address="203.0.113.8", channel_id="ch_other")
    refused = await opened(ledger, consent=consent(gdpr_compliant=False))
    address = GuestFilter(ip_address="203.0.113.8")

    assert await found(ledger, guest=address) == [other.id, mine.id]
    assert await found(ledger, guest=address, channel_id=CHANNEL) == [mine.id]
    assert await found(ledger, guest=address, session=other.id) == [other.id]
    assert await found(ledger, guest=address, idempotency_key="order-1") == [mine.id]
    assert await found(ledger, guest=address, statuses=(Status.REFUSED,)) == []
    assert await found(ledger, session=other.id, idempotency_key="order-1") == []
    assert await found(ledger, guest=GuestFilter(subject_id="crm-7")) == [mine.id]
    assert await found(ledger, session=mine.session_id) == [mine.id]
    assert await found(ledger, session=uuid4()) == []
    assert await found(ledger, around=datetime.now(UTC), statuses=(Status.REFUSED,)) == [refused.id]
    assert await found(ledger, around=datetime.now(UTC), correlation_id=str(mine.id)) == [mine.id]
    assert await found(ledger, guest=address, limit=1) == [other.id]


async def test_the_nearest_earlier_session_is_named_if_none_matches(ledger: Ledger) -> None:
    first, second = await opened(ledger), await opened(ledger, channel_id="ch_other")
    later = datetime.now(UTC) + timedelta(hours=1)
    findings = await ledger.find(FindFilter(around=later))
    assert findings.found == ()
    assert findings.earlier is not None
    assert findings.earlier.session.id == second.id
    of_channel = await ledger.find(FindFilter(around=later, channel_id=CHANNEL))
    assert of_channel.earlier is not None
    assert of_channel.earlier.session.id == first.id
    assert (await ledger.find(FindFilter(around=START))).earlier is None


async def test_an_erased_guest_is_not_found(ledger: Ledger) -> None:
    session = await opened(ledger, subject_id="crm-7")
    await ledger.erase(subject_id="crm-7", reason="asked by mail", requested_by="ops")
    assert await found(ledger, guest=GuestFilter(subject_id="crm-7")) == []
    assert await found(ledger, session=session.id) == [session.id]


async def test_a_look_at_personal_data_is_no_session(ledger: Ledger) -> None:
    session = await opened(ledger)
    await ledger.export(session=session.id, reason="asked", by="ops")
    assert await found(ledger, around=datetime.now(UTC)) == [session.id]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, "give a time"),
        ({"channel_id": CHANNEL, "statuses": (Status.PENDING,)}, "give a time"),
        ({"session": "x", "correlation_id": "y"}, "needs a time"),
        ({"around": START, "within": timedelta()}, "longer than 0 s"),
        ({"around": datetime.min.replace(tzinfo=UTC)}, "years 1 to 9999"),
    ],
)
def test_an_unselective_or_impossible_filter_is_refused(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FindFilter(**wanted)
