"""The log keeps the policies under which decisions were recorded."""

from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from guestledger.engine.domain.due import StepName
from guestledger.engine.limits.retry import RetryPolicy
from tests.integration.conftest import AT_ONCE
from tests.replaying import assert_every_decision_is_reproduced
from tests.unit.samples import request

SHORT = replace(AT_ONCE, creation=RetryPolicy(base_ms=0, deadline_ms=60_000))


async def test_each_policy_under_which_something_was_decided_is_recorded_once(new_ledger: Any) -> None:
    for policy in (AT_ONCE, SHORT, SHORT):
        async with new_ledger(policy=policy) as ledger:
            await ledger.open_session(request())
            await ledger.open_session(request())
            recorded = await ledger.replay.policies()

    assert [one.policy.creation.deadline_ms for one in recorded] == [60_000, AT_ONCE.creation.deadline_ms]
    assert [one.after_position for one in recorded] == [7, -1]


async def test_a_recorded_policy_makes_the_decisions_again(new_ledger: Any) -> None:
    async with new_ledger(policy=SHORT) as ledger:
        session = await ledger.open_session(request())
        [recorded] = await ledger.replay.policies()
        assert_every_decision_is_reproduced(await ledger.history(session.id), recorded.policy)


async def test_a_replay_shows_what_was_due_under_the_policy_of_that_time(new_ledger: Any) -> None:
    async with new_ledger(policy=SHORT) as ledger:
        accepted = await ledger.accept(request())
    async with new_ledger() as ledger:  # its policy would have led to the same event
        await ledger.accept(request())
        frames = await ledger.replay.timeline(accepted.id)

    [deadline] = [due.due_at for due in frames[-1].due if due.step is StepName.ENFORCE_DEADLINE]
    assert deadline - accepted.accepted_at == timedelta(milliseconds=60_001)


async def test_decisions_that_follow_no_policy_record_none(new_ledger: Any) -> None:
    async with new_ledger(policy=SHORT) as ledger:
        session = await ledger.open_session(request())
    async with new_ledger() as ledger:
        await ledger.retention.hold(session=session.id, placed_by="counsel", reason="matter 17")
        await ledger.retention.release(session=session.id, released_by="counsel", reason="matter 17 is closed")
        await ledger.withdraw(session.id, requested_by="guest", marketing_only=True)
        await ledger.withdraw(session.id, requested_by="guest")
        await ledger.erase(session=session.id, requested_by="ops", reason="asked by mail")
        [recorded] = await ledger.replay.policies()
    assert recorded.policy.creation.deadline_ms == SHORT.creation.deadline_ms


async def test_reading_records_no_policy(new_ledger: Any, outsider: asyncpg.Connection) -> None:
    async with new_ledger() as ledger:
        assert [row async for row in ledger.sessions()] == []
        assert await outsider.fetch("SELECT FROM policies") == []
        [own] = await ledger.replay.policies()
    assert (own.policy.creation.deadline_ms, own.after_position) == (AT_ONCE.creation.deadline_ms, -1)


async def test_no_recorded_policy_can_be_changed(new_ledger: Any, outsider: asyncpg.Connection) -> None:
    async with new_ledger(policy=SHORT) as ledger:
        await ledger.open_session(request())
    with pytest.raises(asyncpg.RestrictViolationError):
        await outsider.execute("DELETE FROM policies")
