"""Due steps in PostgreSQL, claimed in due order by the database's clock."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.limits.rate_limiter import COUNTED, PostgresRateLimiter
from guestledger.adapters.postgres.log.notifier import channel
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.adapters.postgres.transactions import reading, short_transaction
from guestledger.adapters.postgres.work.clock_steps import ClockSteps
from guestledger.adapters.postgres.work.statements import DueStepStatements
from guestledger.engine.domain.due import LIMITED_STEPS, PROVIDER_STEPS, DueStep, StepName
from guestledger.engine.domain.waiting import whole_ms
from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import began_at
from guestledger.engine.ports.due_steps import Backlog, Claim, Claimed, DueRow, Outlook, StepCount, Wanted, WorkStatus

FREEING_SECONDS = 1.0
"""How often lapsed leases are looked for. That reads every dead version of a leased row, which a snapshot held elsewhere keeps."""

FOLLOWING_SECONDS = 10.0
"""How often waits from before the clock was set back are looked for, while it is behind the log. That reads every row."""


class PostgresDueSteps:
    """See `DueSteps`.

    Claims and leases do not wait for the disk: after a server crash a step can be claimed twice, but only one claim has
    an effect, as when a lease has lapsed.
    """

    def __init__(
        self, engine: AsyncEngine, schema: str, limiter: PostgresRateLimiter, *, lease_ms: int = 10_000
    ) -> None:
        self._engine = engine
        self._schema = schema
        self._sql = DueStepStatements(schema)
        self._limiter = limiter
        self._clock_steps = ClockSteps(engine, schema, limiter, lease_ms)
        self._freed_at = -FREEING_SECONDS
        self._followed_at = -FOLLOWING_SECONDS
        self._limited: set[StepName] = set()  # the steps whose limiter had a row at the last claim
        self._counted = sorted(PROVIDER_STEPS) if limiter.policy.calls is not None else []

    async def claim(self, lease: Lease, wanted: Wanted, limit: int) -> Claimed:
        """See `DueSteps.claim`. Steps behind a limiter come first: they have waited."""
        claims: list[Claim] = []
        more_in_ms: list[int] = []
        if self._frees_now():
            await self.free_lapsed()

        async def claim_limited(steps: Iterable[StepName]) -> None:
            for step in sorted(steps):
                found = await self._claim_limited(lease, step, wanted[step] or "", limit - len(claims))
                claims.extend(found.claims)
                more_in_ms.extend([] if found.more_in_ms is None else [found.more_in_ms])

        known = self._limited & wanted.keys()
        await claim_limited(known)
        limited, unlimited = await self._claim_unlimited(lease, wanted, limit - len(claims))
        claims += unlimited
        self._limited = (self._limited - wanted.keys()) | limited
        await claim_limited(limited - known)
        return Claimed(claims=claims, more_in_ms=min(more_in_ms, default=None))

    async def _claim_unlimited(self, lease: Lease, wanted: Wanted, limit: int) -> tuple[set[StepName], list[Claim]]:
        rows = await self._execute(
            self._sql.claim, lease.owner, lease.ms, limit, list(wanted), list(wanted.values()), self._counted
        )
        claims = [_claim(row[1:5]) for row in rows if row[1] is not None]
        return {StepName(step) for step in rows[0][0]}, claims

    async def _claim_limited(self, lease: Lease, step: StepName, limiter: str, limit: int) -> Claimed:
        if not limit:
            return Claimed(claims=[])
        with reported():
            async with short_transaction(self._engine, durable=False) as driver:
                counted = step in self._counted
                if counted:
                    await self._limiter.lock_head(driver)
                limiters = await self._limiter.open(driver, [limiter], asking=() if counted else None)
                free, denied = limiters.capacity(limiter, limit)
                claim = self._sql.claim_limited, lease.owner, lease.ms, len(free), step
                rows = await driver.fetch(*claim) if free else []
                times = limiters.reserve(limiter, len(rows))
                await self._limiter.write(driver, limiters)
        claims = [_claim(row, reserved_ms=whole_ms(time - limiters.now)) for row, time in zip(rows, times, strict=True)]
        waits = denied is not None and denied.by in (DenialReason.RATE, DenialReason.CONCURRENCY)
        more = denied is not None and waits and len(rows) == len(free)
        return Claimed(claims=claims, more_in_ms=whole_ms(denied.until - limiters.now) if denied and more else None)

    async def plan(self, step: StepName, due: Mapping[UUID, datetime]) -> int:
        """See `DueSteps.plan`. Under the ledger's lock: an append that erases would leave no row to plan for."""
        with reported():
            async with short_transaction(self._engine, durable=False) as driver:
                await driver.execute(self._sql.lock)
                return len(await driver.fetch(self._sql.plan, step, list(due), list(due.values())))

    async def free_lapsed(self) -> None:
        """See `DueSteps.free_lapsed`."""
        await self._execute(self._sql.free_lapsed)

    async def follow_clock(self) -> None:
        """See `DueSteps.follow_clock`."""
        self._followed_at = time.monotonic()
        await self._clock_steps.follow()

    async def heartbeat(self, lease: Lease, stream_ids: Sequence[UUID]) -> set[UUID]:
        """See `DueSteps.heartbeat`."""
        rows = await self._execute(self._sql.heartbeat, lease.owner, lease.ms, list(stream_ids))
        return {row[0] for row in rows}

    async def release(self, owner: UUID, stream_id: UUID, delay_ms: int = 0) -> None:
        """See `DueSteps.release`."""
        await self._execute(self._sql.release, owner, stream_id, delay_ms)

    async def release_all(self, owners: Iterable[UUID]) -> None:
        """See `DueSteps.release_all`."""
        await self._execute(self._sql.release_all, list(owners), channel(self._schema))

    async def unfinished(self, wanted: Wanted) -> int:
        """See `DueSteps.unfinished`."""
        rows = await self._execute(self._sql.unfinished, *_unfinished(wanted))
        number: int = rows[0][0]
        return number

    async def is_idle(self, wanted: Wanted) -> bool:
        """See `DueSteps.is_idle`."""
        with reported():
            async with reading(self._engine) as driver:
                return not await driver.fetchval(self._sql.is_unfinished, *_unfinished(wanted))

    async def outlook(self, wanted: Wanted) -> Outlook:
        """See `DueSteps.outlook`. Looks without a transaction."""
        with reported():
            async with reading(self._engine) as driver:
                claimable, next_due_ms, unprojected_ms, lapsed, set_back = await driver.fetchrow(
                    self._sql.outlook, list(PROJECTIONS), list(wanted), list(wanted.values()), self._frees_now()
                )
        follows = set_back and time.monotonic() - self._followed_at >= FOLLOWING_SECONDS
        if follows:
            await self.follow_clock()
        if lapsed:
            await self.free_lapsed()
        if follows or lapsed:
            return await self.outlook(wanted)
        steps = frozenset(map(StepName, claimable))
        return Outlook(claimable=steps, next_due_ms=next_due_ms, unprojected_ms=unprojected_ms)

    async def backlog(self) -> Backlog:
        """See `DueSteps.backlog`."""
        with reported():
            async with reading(self._engine) as driver:
                found = await driver.fetchrow(self._sql.backlog, list(StepName))
        now, waiting, oldest, owed, step, due_at = found
        return Backlog(
            now=now,
            waiting=waiting,
            oldest_accepted_at=None if oldest is None else began_at(oldest),
            oldest_due=None if step is None else DueStep(StepName(step), due_at),
            owed_webhooks=owed,
        )

    async def counts(self) -> list[StepCount]:
        """See `DueSteps.counts`."""
        with reported():
            async with reading(self._engine) as driver:
                rows = await driver.fetch(self._sql.counts, list(StepName))
        return [
            StepCount(step=StepName(step), due=due, waiting=waiting, leased=leased, oldest_seconds=float(seconds))
            for step, due, waiting, leased, seconds in rows
        ]

    async def status(self, stream_id: UUID) -> WorkStatus:
        """See `DueSteps.status`."""
        counted = COUNTED if self._counted else []
        found = await self._execute(self._sql.status, stream_id, counted, sorted(LIMITED_STEPS))
        rows = tuple(
            DueRow(
                step=StepName(step), due_at=due_at, owner=owner, lease_until=lease_until, back_ms=back_ms, ahead=ahead
            )
            for _now, _version, _in_flight, step, due_at, owner, lease_until, back_ms, ahead in found
            if step is not None
        )
        now, version, in_flight, *_rest = found[0]
        return WorkStatus(now=now, version=version, in_flight=in_flight, rows=rows)

    def _frees_now(self) -> bool:
        now = time.monotonic()
        if now - self._freed_at < FREEING_SECONDS:
            return False
        self._freed_at = now
        return True

    async def _execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with reported():
            async with reading(self._engine) as driver:
                rows: Sequence[Sequence[Any]] = await driver.fetch(statement, *values)
                return rows


def _unfinished(wanted: Wanted) -> tuple[str | None, bool, list[StepName]]:
    webhook = StepName.DELIVER_WEBHOOK
    left_out = {*COUNTED, webhook, StepName.ENFORCE_DEADLINE}  # a deadline is due beside a step that counts
    if StepName.ERASE_CONTACT not in wanted:  # it is for processes with a retention
        left_out.add(StepName.ERASE_CONTACT)
    return wanted.get(webhook), webhook in wanted, [step for step in StepName if step not in left_out]


def _claim(row: Sequence[Any], *, reserved_ms: int | None = None) -> Claim:
    stream_id, step, due_at, claimed_at = row
    return Claim(
        stream_id=stream_id, step=StepName(step), due_at=due_at, claimed_at=claimed_at, reserved_ms=reserved_ms
    )
