"""Replay: the log is enough to fold every session again, and to make each of its decisions again."""

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import msgspec
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.events import EVENT_TYPES, ConsentRefused, CreationFailed, LegalHoldPlaced, SessionEvent
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.operations.reveal import Reveal
from guestledger.engine.replay.timeline import until
from tests.integration import by_hand
from tests.limits import BRISK
from tests.replaying import (
    assert_each_attempt_was_committed_before_it_was_sent,
    assert_every_decision_is_reproduced,
)
from tests.unit.samples import consent, request

SEEN = Reveal(reason="decisions are made again", by="tests", purposes=tuple(Purpose))
POLICY = Policy(
    creation=RetryPolicy(base_ms=4, cap_ms=20, max_failures=3),
    webhook=DeliveryPolicy(waits_ms=(2,)),
    limiter=BRISK,
)
FAULTS = SimulatorConfig(
    seed=3,
    fault_times=3,
    throttle_share=0.3,
    throttle_times=2,
    retry_after_s=0,
    server_error_share=0.2,
    error_after_processing=True,
    drop_share=0.15,
    drop_before_share=0.15,
    channel_errors=2,
    channel_throttle_times=2,
    inactive_channels=frozenset({"ch_inactive"}),
    channels_without_web_chat=frozenset({"ch_sms"}),
    session_lifetime_s=0,
    honour_idempotency_key=False,
    webhook_status=503,
    webhook_retry_after="0",
)
CHANNELS = ["ch_1", "ch_2", "ch_3", "ch_inactive", "ch_sms", "ch_unknown_1"]


async def run_through_every_fault(ledger: Ledger, simulator: Simulator) -> None:
    """A hundred sessions, most of them with faults."""
    simulator.config = FAULTS
    asked = [
        request(
            channel_id=CHANNELS[number % 30] if number % 30 < len(CHANNELS) else CHANNELS[number % 3],
            consent=consent(gdpr_compliant=1) if number % 17 == 0 else consent(marketing=number % 2 == 0),
            idempotency_key=f"order-{number}" if number % 3 else None,
        )
        for number in range(100)
    ]
    await asyncio.gather(*map(ledger.open_session, asked[:50]))
    await ledger.scheduler.run_until_idle()
    simulator.config = replace(FAULTS, webhook_status=204)
    for letter in (await ledger.webhooks.dead_letters())[:10]:
        await ledger.webhooks.redeliver(letter.id, requested_by="ops", reason="the receiver is up again")
    await asyncio.gather(*map(ledger.accept, asked[50:]))
    await ledger.scheduler.run_until_idle()


async def test_every_session_of_a_run_with_faults_can_be_replayed(
    new_ledger: Any, simulator: Simulator, outsider: asyncpg.Connection
) -> None:
    given = {"policy": POLICY, "webhook_url": simulator.webhook_url}
    async with new_ledger(**given) as ledger, new_ledger(**given) as other, asyncio.timeout(60):
        running = asyncio.create_task(other.scheduler.run_forever())
        await run_through_every_fault(ledger, simulator)
        other.scheduler.stop()
        await running

        rows = {row.id: row async for row in ledger.sessions()}
        happened: Counter[str] = Counter()
        causes: set[Cause] = set()
        for stream_id, row in rows.items():
            frames = await ledger.replay.timeline(stream_id, reveal=SEEN)
            history = [frame.recorded for frame in frames]
            last = frames[-1].state
            happened.update(type(recorded.event).__name__ for recorded in history)
            causes |= {recorded.event.cause for recorded in history if isinstance(recorded.event, CreationFailed)}

            assert assert_every_decision_is_reproduced(history, POLICY) == last
            assert_each_attempt_was_committed_before_it_was_sent(history)
            assert last == await ledger.session(stream_id, reveal=SEEN)
            shared = set(msgspec.structs.asdict(row)) & set(msgspec.structs.asdict(last))
            assert {name: getattr(row, name) for name in shared} == {name: getattr(last, name) for name in shared}
            assert frames[-1].due == (), "nothing is left to do"
            assert [frame.due for frame in frames] == [due_steps(frame.state, POLICY) for frame in frames]
            assert until(frames, len(frames) - 1) == frames[:-1]

        assert len(rows) == 100
        late, decided = (
            {"DuplicateCreated", "DoubtLifted", "GuestTokenFound"},
            {"SessionParked", "RetryDecided", "AbandonmentDecided", "SessionAdopted"},
        )
        kept = {"GuestErased", "ContactErased", "LegalHoldPlaced", "LegalHoldReleased"}
        rare = {*late, *decided, *kept, "ConsentWithdrawn", "MarketingWithdrawn", "ClockSetBack"}
        of_sessions = {name for name, kind in EVENT_TYPES.items() if issubclass(kind, SessionEvent)}
        assert set(happened) == of_sessions - rare, "every event but those of late answers, parking and clocks"
        assert Cause.PROCESS_ENDED not in causes, "no worker took a session over"
        assert {row.status for row in rows.values()} == {
            Status.EXPIRED,
            Status.REFUSED,
            Status.REJECTED,
            Status.ABANDONED,
        }
        assert {entry.id async for entry in ledger.audit()} == set(rows)
        assert msgspec.to_builtins(await ledger.metrics()) == await by_hand.metrics(outsider, *CHANNELS)
    made = [one.session_id for some in simulator.sessions_by_key.values() for one in some]
    assert {row.session_id for row in rows.values() if row.session_id} <= set(made)
    assert await outsider.fetch("SELECT * FROM due_steps") == []


async def test_due_steps_can_be_rebuilt_from_the_log(
    ledger: Ledger, simulator: Simulator, store: Any, sql: Any
) -> None:
    """The rows are a projection: each one is a due step of the folded session."""
    for throttled in (0.0, 1.0):
        simulator.config = SimulatorConfig(
            throttle_share=throttled, retry_after_s=600, inactive_channels=frozenset({"ch_inactive"})
        )
        channels = ("ch_1", "ch_inactive", "ch_2")
        await asyncio.gather(*(ledger.open_session(request(channel_id=channel)) for channel in channels))
    await ledger.accept(request())

    rows = {(row["stream_id"], row["step"]): row["due_at"] for row in await sql("SELECT * FROM due_steps")}

    expected = {}
    async for row in ledger.sessions():
        for due in (await ledger.replay.timeline(row.id))[-1].due:
            expected[row.id, due.step] = due.due_at
    assert rows == expected
    assert {step for _, step in rows} == {
        StepName.VALIDATE_CHANNEL,
        StepName.CREATE_SESSION,
        StepName.ENFORCE_DEADLINE,
        StepName.EXPIRE_TOKEN,
    }


async def test_a_what_if_keeps_the_contact_data_of_a_held_subject(ledger: Ledger) -> None:
    await ledger.retention.hold(subject_id="crm-7", reason="matter 17", placed_by="counsel")
    session = await ledger.open_session(request(subject_id="crm-7", consent=consent(gdpr_compliant=False)))
    found = await ledger.replay.what_if(session.id, policy={"retention_days": 0})
    assert [type(event) for event in found.events] == [ConsentRefused, LegalHoldPlaced]
