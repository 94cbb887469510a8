"""Personal data is in one table, encrypted. The log holds commitments to it."""

from hashlib import sha256
from typing import Any

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.consent import Guest
from guestledger.engine.domain.errors import InvalidRequest, ServiceUnreachable, SubjectErased
from guestledger.engine.domain.events import ConsentRecorded, SessionCreated
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.outcomes import Adoption
from guestledger.engine.domain.personal import Sealed, personal_fields
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.unreadable import SealedEventBroken
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.log.personal_fields import personal_values
from guestledger.engine.ports.session_finder import FindFilter
from tests.limits import BRISK
from tests.unit.samples import EXPIRY, consent, request

CANARY_IP, CANARY_AGENT, CANARY_SUBJECT, CANARY_KEY = "198.51.100.77", "Canary/1.0 (x)", "subject-canary", "key-canary"
PARKING = Policy(
    creation=RetryPolicy(base_ms=0, in_doubt=InDoubt.PARK), webhook=DeliveryPolicy(waits_ms=(0, 0)), limiter=BRISK
)


def canary(**given: Any) -> Any:
    return request(
        **{"ip_address": CANARY_IP, "user_agent": CANARY_AGENT, "subject_id": CANARY_SUBJECT, **given},
    )


async def run_with_canaries(ledger: Ledger, simulator: Simulator) -> list[str]:
    """Sessions that end in every way. Returns every personal value that was in one."""
    active = await ledger.open_session(canary(idempotency_key=CANARY_KEY))
    await ledger.open_session(canary(idempotency_key=CANARY_KEY))
    refused = await ledger.open_session(canary(consent=consent(data_processing=False)))
    simulator.config = SimulatorConfig(drop_share=1.0)
    parked = await ledger.open_session(canary(subject_id=None))
    found = Adoption(session_id="sess_found", expires_at=EXPIRY.replace(year=2099), guest_token="gt_canary_adopted")
    await ledger.resolve(parked.id, found, decided_by="ops", reason="found it")
    simulator.config = SimulatorConfig(session_lifetime_s=0, webhook_status=500)
    await ledger.open_session(canary())
    await ledger.scheduler.run_until_idle()
    async for _ in ledger.audit():
        pass
    tokens = [active.guest_token, "gt_canary_adopted"]
    guests = [session.guest for session in (active, refused, parked) if session.guest is not None]
    values = {getattr(guest, name) for guest in guests for name in personal_fields(Guest)} | set(tokens)
    return [value for value in values if value is not None]


async def test_no_table_holds_a_personal_value_in_clear(new_ledger: Any, simulator: Simulator, sql: Any) -> None:
    async with new_ledger(policy=PARKING, webhook_url=simulator.webhook_url) as ledger:
        canaries = await run_with_canaries(ledger, simulator)

    assert len(canaries) > 6
    tables = await sql(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = $1::regnamespace",
        "guestledger",
    )
    dump = b"\n".join(
        [str(row[0]).encode() for (table,) in tables for row in await sql(f"SELECT t::text FROM {table} AS t")]
    )
    for value in canaries:
        digest = sha256(value.encode()).hexdigest()
        for form in (value.encode(), value.encode().hex().encode(), digest.encode()):
            assert form not in dump
    kinds = {row["purpose"] for row in await sql("SELECT DISTINCT purpose FROM personal")}
    assert kinds == {"contact", "access"}


async def test_readers_see_commitments_and_workers_see_the_values(ledger: Ledger, simulator: Simulator) -> None:
    session = await ledger.open_session(canary())

    history = await ledger.history(session.id)
    sealed = [value for recorded in history for value in personal_values(recorded.event).values()]
    opened = await ledger._adapters.store.read_stream(session.id, reveal=True)

    assert len(sealed) > 4
    assert all(isinstance(value, Sealed) for value in sealed)
    assert [recorded.leaf_hash for recorded in opened] == [recorded.leaf_hash for recorded in history]
    first = opened[0].event
    assert isinstance(first, ConsentRecorded)
    assert first.guest == session.guest
    assert [one.event.guest_token for one in opened if isinstance(one.event, SessionCreated)] == [session.guest_token]


async def test_a_sealed_value_that_was_changed_or_moved_does_not_open(ledger: Ledger, sql: Any) -> None:
    one, other = await ledger.open_session(canary()), await ledger.open_session(canary())
    await sql(
        """UPDATE personal AS p SET sealed = o.sealed, key_id = o.key_id FROM personal AS o
            WHERE p.stream_id = $1 AND o.stream_id = $2 AND p.version = o.version AND p.purpose = o.purpose""",
        one.id,
        other.id,
    )
    with pytest.raises(SealedEventBroken, match=str(one.id)):
        await ledger._adapters.store.read_stream(one.id, reveal=True)
    assert (await ledger.session(one.id)).status == "active"

    await sql(
        "UPDATE personal SET sealed = set_byte(sealed, 60, get_byte(sealed, 60) # 1) WHERE stream_id = $1", other.id
    )
    with pytest.raises(SealedEventBroken, match="the personal data of event"):
        await ledger._adapters.store.read_stream(other.id, reveal=True)


async def test_deleted_personal_data_stays_sealed_and_the_history_readable(ledger: Ledger, sql: Any) -> None:
    session = await ledger.open_session(canary())
    await sql("DELETE FROM personal WHERE stream_id = $1", session.id)

    opened = await ledger._adapters.store.read_stream(session.id, reveal=True)
    assert all(isinstance(v, Sealed) for recorded in opened for v in personal_values(recorded.event).values())
    assert (await ledger.session(session.id)).status == "active"


async def test_one_subject_has_one_key_for_each_purpose(ledger: Ledger, sql: Any) -> None:
    for _ in range(3):
        await ledger.open_session(canary())
    await ledger.open_session(canary(subject_id=None))

    keys = await sql("SELECT purpose, count(*) FROM data_keys WHERE purpose <> 'index' GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in keys] == [("access", 2), ("contact", 2)]
    used = await sql("SELECT count(DISTINCT key_id) FROM personal")
    assert used[0][0] == 4


async def test_without_a_key_nothing_personal_is_recorded(new_ledger: Any, sql: Any) -> None:
    async with new_ledger(encryption_key=None) as ledger:
        with pytest.raises(ServiceUnreachable, match="GUESTLEDGER_ENCRYPTION_KEY"):
            await ledger.open_session(canary())
        assert [row async for row in ledger.sessions()] == []
    assert not await sql("SELECT FROM events")


async def test_personal_data_of_a_destroyed_key_is_refused(ledger: Ledger, sql: Any) -> None:
    await ledger.open_session(canary())
    [(key_id,)] = await sql("SELECT DISTINCT key_id FROM personal WHERE purpose = 'contact'")
    await sql("INSERT INTO destroyed_keys VALUES ($1, now())", key_id)
    with pytest.raises(SubjectErased):
        await ledger.open_session(canary())
    assert len(await sql("SELECT DISTINCT stream_id FROM events")) == 1


@pytest.mark.parametrize(
    "begun",
    [
        """
        INSERT INTO erasures
        SELECT stream_id, subject, NULL, ARRAY[stream_id], true, 0, ARRAY[]::uuid[], 'ops', 'asked for', now(), NULL
          FROM personal_index""",
        "INSERT INTO destroyed_keys SELECT key_id, now() FROM personal WHERE purpose = 'contact'",
    ],
    ids=["fenced", "keys destroyed"],
)
async def test_nothing_is_sent_for_a_guest_whose_erasure_has_begun(
    ledger: Ledger, simulator: Simulator, sql: Any, begun: str
) -> None:
    await ledger.accept(canary())
    await sql(begun)
    await ledger.scheduler.run_once()
    assert not simulator.sessions_by_key
    assert not await sql("SELECT FROM events WHERE event_type = 'CreationAttempted'")


async def test_nothing_is_sent_for_a_guest_whose_key_is_missing(
    new_ledger: Any, ledger: Ledger, simulator: Simulator, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    session = await ledger.accept(canary())
    lost = await sql("DELETE FROM data_keys WHERE purpose = 'contact' RETURNING *")

    async with new_ledger() as worker:
        await worker.scheduler.run_once()
        assert not simulator.sessions_by_key
        assert "its data key is missing" in caplog.text
        await sql("INSERT INTO data_keys VALUES ($1, $2, $3, $4, $5)", *lost[0])
        await sql("UPDATE due_steps SET due_at = now()")
        await worker.scheduler.run_once()
    assert (await ledger.session(session.id)).status == "active"


async def test_a_person_is_not_looked_for_by_what_is_not_text(ledger: Ledger) -> None:
    broken = "caf\udce9"  # a command's argument in another encoding than UTF-8
    for asked in (
        ledger.erase(subject_id=broken, reason="r", requested_by="b"),
        anext(ledger.consents.withdraw_all(broken, requested_by="b")),
        ledger.find(FindFilter(idempotency_key=broken)),
        ledger.find(FindFilter(guest=GuestFilter(fingerprint=broken))),
    ):
        with pytest.raises(InvalidRequest, match="is not text in UTF-8"):
            await asked
