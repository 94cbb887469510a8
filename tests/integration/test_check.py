"""Today's code takes the decisions of a run with faults, under any of the policies that were in force."""

import asyncio
from typing import Any

from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator
from guestledger.engine.ledger import Ledger
from guestledger.engine.replay.bundle import read_bundle, write_bundle
from guestledger.engine.replay.check import CheckReport
from guestledger.engine.replay.decisions import Lifecycle
from tests.integration.test_replay import POLICY, run_through_every_fault
from tests.unit.samples import START, request
from tests.unit.test_check import longer_waits


async def checked(ledger: Ledger, lifecycle: Lifecycle = Lifecycle()) -> CheckReport:
    report, policies = CheckReport(), await ledger.replay.policies()
    async for batch in ledger.events.read_sessions():
        for history in batch:
            report.check(history, policies, lifecycle=lifecycle)
    return report


async def test_a_check_of_a_run_with_faults_finds_nothing(new_ledger: Any, simulator: Simulator) -> None:
    given = {"policy": POLICY, "webhook_url": simulator.webhook_url}
    async with new_ledger(**given) as ledger, new_ledger(**given) as other, asyncio.timeout(60):
        running = asyncio.create_task(other.scheduler.run_forever())
        await run_through_every_fault(ledger, simulator)
        other.scheduler.stop()
        await running

        report = await checked(ledger)
        assert report.groups == {}
        assert report.sessions == 100

        histories = [history async for batch in ledger.events.read_sessions() for history in batch]
        written = write_bundle(
            histories,
            policies=await ledger.replay.policies(),
            release="1.2.3",
            ledger=await ledger.events.ledger_id(),
            written_at=START,
        )
        bundle = read_bundle(written)
        assert [list(session.history) for session in bundle.sessions] == histories
        of_bundle = CheckReport()
        for session in bundle.sessions:
            assert len(session.due) == len(session.history)
            of_bundle.check(session.history, bundle.policies, session.due)
        assert of_bundle == report

        planted = await checked(ledger, Lifecycle(decide=longer_waits))
        [kind] = planted.groups
        assert kind.startswith("RecordAttempt: CreationThrottled -> CreationThrottled: ")


async def test_a_check_uses_every_policy_that_was_in_force(new_ledger: Any, simulator: Simulator) -> None:
    for policy in (POLICY, replace(POLICY, assumed_lifetime_ms=1), replace(POLICY, retention_days=1)):
        async with new_ledger(policy=policy, webhook_url=simulator.webhook_url) as ledger:
            await ledger.open_session(request())
    async with new_ledger() as ledger:  # its own policy is another, and no decision was made under it
        assert len(await ledger.replay.policies()) == 3
        assert (await checked(ledger)).groups == {}
