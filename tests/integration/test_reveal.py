"""Who looked: personal data in clear takes a reason and a name, which are recorded before anything is shown."""

from typing import Any

import asyncpg
import pytest

from guestledger.adapters.postgres.errors import Access, NotAllowed
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import InvalidRequest, ServiceUnreachable, SessionNotFound
from guestledger.engine.domain.events import PersonalDataRevealed
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.personal import Purpose, Sealed
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.recorded import EventFilter, RecordedEvent
from guestledger.engine.operations import reveal as reveal_module
from guestledger.engine.operations.reveal import Reveal
from guestledger.engine.projections.audit import AuditFilter, contract_form
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration.conftest import NewLogin, Sql
from tests.keys import KEY
from tests.unit.samples import FINGERPRINT, IP, USER_AGENT, request

REVEAL = Reveal(reason="complaint 4711", by="ops-jane")
LOOKS = EventFilter(types=("PersonalDataRevealed",))


async def looks(ledger: Ledger) -> list[RecordedEvent]:
    return [recorded async for batch in ledger.events.read(wanted=LOOKS) for recorded in batch]


async def test_without_a_reveal_every_reading_shows_commitments(ledger: Ledger) -> None:
    session = await ledger.open_session(request(subject_id="crm-1"))

    seen = await ledger.session(session.id)
    frames = await ledger.replay.timeline(session.id)
    [entry] = [entry async for entry in ledger.audit()]

    assert seen.guest is not None
    assert isinstance(seen.guest.ip_address, Sealed)
    assert isinstance(seen.guest_token, Sealed)
    assert frames[-1].state == seen
    assert entry.guest is None
    assert contract_form(entry)["ipAddress"] is None
    assert await looks(ledger) == []


async def test_a_look_is_recorded_with_who_why_what_and_of_whom(ledger: Ledger) -> None:
    session = await ledger.open_session(request())

    seen = await ledger.session(session.id, reveal=REVEAL)

    assert seen.guest is not None
    assert (seen.guest.ip_address, seen.guest.user_agent) == (IP, USER_AGENT)
    assert isinstance(seen.guest_token, Sealed), "a token is a secret"
    [look] = await looks(ledger)
    assert isinstance(look.event, PersonalDataRevealed)
    assert (look.event.revealed_by, look.event.reason, look.actor) == ("ops-jane", "complaint 4711", "ops-jane")
    assert (look.event.purposes, look.event.sessions) == ((Purpose.CONTACT,), (session.id,))
    assert look.stream_id != session.id


async def test_a_token_is_revealed_only_if_asked_for(ledger: Ledger) -> None:
    session = await ledger.open_session(request())
    both = Reveal(reason="handed out by mistake", by="ops-jane", purposes=(Purpose.CONTACT, Purpose.ACCESS))

    assert (await ledger.session(session.id, reveal=both, token=True)).guest_token == session.guest_token
    [look] = await looks(ledger)
    assert isinstance(look.event, PersonalDataRevealed)
    assert look.event.purposes == (Purpose.ACCESS, Purpose.CONTACT)


async def test_the_guests_token_alone_is_opened_to_answer_that_guest(ledger: Ledger) -> None:
    session = await ledger.open_session(request())

    answered = await ledger.session(session.id, token=True)

    assert answered.for_guest(token=True)["token"] == session.guest_token
    assert answered.guest is not None
    assert isinstance(answered.guest.ip_address, Sealed)
    assert await looks(ledger) == []
    assert (await ledger.session(session.id)).for_guest(token=True)["token"] is None, "never a commitment"


async def test_a_long_audit_is_recorded_page_by_page_in_one_stream(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guestledger.engine.operations.lists.PAGE", 2)
    sessions = [await ledger.open_session(request()) for _ in range(5)]
    entries = ledger.audit(AuditFilter(newest_first=True), reveal=REVEAL)

    first = await anext(entries)

    assert first.guest is not None
    assert (first.id, first.guest.ip_address, first.guest.fingerprint) == (sessions[-1].id, IP, FINGERPRINT)
    assert [look.event.sessions for look in await looks(ledger)] == [  # type: ignore[attr-defined]
        (sessions[4].id, sessions[3].id)
    ], "no more than may have been seen"
    rest = [contract_form(entry)["ipAddress"] async for entry in entries]
    assert rest == [IP] * 4
    assert [(look.version, len(look.event.sessions)) for look in await looks(ledger)] == [  # type: ignore[attr-defined]
        (1, 2),
        (2, 2),
        (3, 1),
    ]
    assert len({look.stream_id for look in await looks(ledger)}) == 1


async def test_one_event_names_a_limited_number_of_sessions(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reveal_module, "MAX_SESSIONS", 2)
    for _ in range(3):
        await ledger.open_session(request())
    read = [recorded async for batch in ledger.events.read() for recorded in batch]

    opened = await ledger.look(REVEAL).events(read)

    assert {one.event.guest.ip_address for one in opened if hasattr(one.event, "guest")} == {IP}
    assert [len(look.event.sessions) for look in await looks(ledger)] == [2, 1]  # type: ignore[attr-defined]


async def test_erased_data_stays_sealed_in_a_look(ledger: Ledger, sql: Sql) -> None:
    session = await ledger.open_session(request())
    await sql("DELETE FROM personal")

    seen = await ledger.session(session.id, reveal=REVEAL, token=True)
    [entry] = [entry async for entry in ledger.audit(reveal=REVEAL)]

    assert seen.guest is not None
    assert isinstance(seen.guest.ip_address, Sealed)
    assert seen.for_guest(token=True)["token"] is None
    assert contract_form(entry)["ipAddress"] is None


async def test_nothing_is_shown_if_the_look_cannot_be_recorded(ledger: Ledger, monkeypatch: Any) -> None:
    session = await ledger.open_session(request())
    opened = []

    async def fails(_append: object) -> None:
        raise ServiceUnreachable("database", "connection_lost")  # type: ignore[arg-type]

    async def opens(*_: object) -> None:
        opened.append(1)

    monkeypatch.setattr(ledger._adapters.store, "append", fails)
    monkeypatch.setattr(ledger._adapters.personal, "opened", opens)
    with pytest.raises(ServiceUnreachable):
        await ledger.session(session.id, reveal=REVEAL)
    assert opened == []


@pytest.mark.parametrize(("field", "given"), [("reason", ""), ("reason", "a\nb"), ("by", ""), ("by", "x" * 256)])
def test_reason_and_name_are_checked(field: str, given: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Reveal(**{"reason": "complaint", "by": "ops-jane", field: given})
    assert raised.value.field == field


# Streams of looks


async def test_a_look_is_no_session(ledger: Ledger) -> None:
    session = await ledger.open_session(request())
    await ledger.session(session.id, reveal=REVEAL)
    [look] = await looks(ledger)

    for wanted in (look.stream_id, str(look.stream_id)):
        with pytest.raises(SessionNotFound):
            await ledger.history(wanted)
    assert [row.id async for row in ledger.sessions()] == [session.id]
    assert await ledger.scheduler.run_until_idle() is not None
    for status in await ledger.projections.status():
        assert status.lag_events == 0
        assert (await ledger.projections.verify(status.name)).is_same
        assert await ledger.projections.rebuild(status.name) == 0


# Finding guests


async def test_guests_are_found_by_subject_address_and_fingerprint(ledger: Ledger, sql: Sql) -> None:
    one = await ledger.open_session(request(subject_id="crm-1"))
    other = await ledger.open_session(request(subject_id="crm-2", ip_address="2001:db8::1"))
    third = await ledger.open_session(request(ip_address="2001:DB8:0:0::1"))

    async def found(**wanted: str) -> list[Any]:
        guest = GuestFilter(**wanted)
        rows = [row.id async for row in ledger.sessions(SessionFilter(guest=guest))]
        assert rows == [entry.id async for entry in ledger.audit(AuditFilter(guest=guest))]
        events = [one async for batch in ledger.events.read(wanted=EventFilter(guest=guest)) for one in batch]
        assert {one.stream_id for one in events} == set(rows)
        return rows

    assert await found(subject_id="crm-1") == await found(fingerprint=FINGERPRINT) == [one.id]
    assert await found(ip_address="2001:db8:0::1") == [other.id, third.id]
    assert await found(ip_address="2001:db8::1", subject_id="crm-2") == [other.id]
    assert await found(subject_id="crm-3") == []
    assert await looks(ledger) == []
    await sql("DELETE FROM personal_index")
    assert await found(subject_id="crm-1") == []


def test_a_guest_filter_never_shows_what_it_looks_for() -> None:
    wanted = GuestFilter(subject_id="crm-1", ip_address=IP, fingerprint=FINGERPRINT)
    for shown in (repr(wanted), repr(AuditFilter(guest=wanted)), repr(EventFilter(guest=wanted))):
        assert not any(value in shown for value in ("crm-1", IP, FINGERPRINT))
    with pytest.raises(ValueError, match="not an IPv4 or IPv6 address") as raised:
        GuestFilter(ip_address="203.0.113.777")
    assert "777" not in str(raised.value)


# Roles


async def test_the_privacy_role_looks_and_finds_but_changes_no_log(
    ledger: Ledger, ledger_url: str, new_login_at: NewLogin
) -> None:
    session = await ledger.open_session(request(subject_id="crm-1"))
    await ledger.projections.catch_up()
    url = await new_login_at(ledger_url, "IN ROLE guestledger_privacy")

    async with connect(Settings(database_url=url, encryption_key=KEY), scheduler=False) as privacy:
        seen = await privacy.session(session.id, reveal=REVEAL)
        rows = [row.id async for row in privacy.sessions(SessionFilter(guest=GuestFilter(subject_id="crm-1")))]

    assert seen.guest is not None
    assert (seen.guest.ip_address, rows) == (IP, [session.id])
    assert len(await looks(ledger)) == 1
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), server_settings={"search_path": "guestledger"})
    assert await connection.fetchval("SELECT count(*) FROM personal") > 0
    for table in ("events", "batches", "request_keys"):
        for change in ("UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {}"):
            column = "idempotency_key" if table == "request_keys" else "position"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(change.format(table, column, column))
    await connection.execute("DELETE FROM personal; DELETE FROM personal_index; DELETE FROM data_keys")
    await connection.close()


async def test_the_auditor_role_gets_no_personal_data(ledger: Ledger, ledger_url: str, new_login_at: NewLogin) -> None:
    session = await ledger.open_session(request())
    await ledger.projections.catch_up()
    url = await new_login_at(ledger_url, "IN ROLE guestledger_auditor")
    async with connect(Settings(database_url=url, encryption_key=KEY), scheduler=False) as auditor:
        for look in (auditor.session(session.id, reveal=REVEAL), anext(auditor.audit(reveal=REVEAL))):
            with pytest.raises(NotAllowed) as raised:
                await look
            assert (raised.value.access, raised.value.role) == (Access.REVEAL, "guestledger_privacy")
    assert await looks(ledger) == []
