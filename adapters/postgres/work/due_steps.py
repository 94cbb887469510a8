"""Due work in PostgreSQL: claimed in due order under short leases, by the database's clock alone."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import driver_connection, reported, short_transaction
from guestledger.adapters.postgres.limits.rate_limiter import LIMITED, PostgresRateLimiter
from guestledger.adapters.postgres.log.notifier import channel
from guestledger.adapters.postgres.projections.registry import PROJECTIONS
from guestledger.adapters.postgres.statements import Statements
from guestledger.engine.domain.creation import whole_ms
from guestledger.engine.domain.lifecycle import ExpireToken, SyncWebhook
from guestledger.engine.limits.policy import DenialReason, Denied, LimiterPolicy
from guestledger.engine.log.appends import Lease
from guestledger.engine.work import Backlog, Claim, Claimed, DueStepRow, Outlook, WorkStatus

_EXPIRY, _WEBHOOK = ExpireToken.__name__, SyncWebhook.__name__


class PostgresDueSteps:
    """The rows that appends leave behind, and who works on them.

    A crash of the server may take back the last moment of claims and leases: others then claim what somebody works on, and of
    the two only one gets through to an effect, as where a lease has lapsed. The work itself is written by durable appends.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        schema: str,
        limiters: LimiterPolicy = LimiterPolicy(),
    ) -> None:
        self._engine = engine
        self._schema = schema
        self._sql = Statements(schema)
        self._policy = limiters
        self._gates = PostgresRateLimiter(engine, schema, limiters)
        self._gated: set[str] = set()  # the steps that a limiter was to be asked for, when it was looked last
        self._limited = LIMITED if limiters.calls is not None else []

    async def claim(self, lease: Lease, steps: Mapping[str, str | None], limit: int) -> Claimed:
        """Lease up to `limit` rows that are due now and are free or whose lease has lapsed.

        `steps` are those wanted, each with the limiter that its request passes. Of what is behind a limiter, as much is leased as it
        lets through now, with a slot for each, before what has none: it has been waiting. And whatever ends now; with
        `ExpireToken`, that is also the tokens whose webhook is still to be told, however many are before it or hang, and those
        whose expiry another has leased and not recorded: it is gone, or finds that somebody else has recorded it.
        """
        claims: list[Claim] = []
        paced_ms: list[int] = []

        async def behind_a_limiter(limited_: Iterable[str]) -> None:
            for step in sorted(limited_):
                found = await self._claim_gated(lease, step, steps[step] or "", limit - len(claims))
                claims.extend(found.claims)
                paced_ms.extend([] if found.paced_ms is None else [found.paced_ms])

        known = self._gated & steps.keys()
        await behind_a_limiter(known)
        limited_, free = await self._claim_free(lease, steps, limit - len(claims))
        claims += free
        self._gated = (self._gated - steps.keys()) | limited_
        await behind_a_limiter(limited_ - known)
        return Claimed(claims=claims, paced_ms=min(paced_ms, default=None))

    async def _claim_free(
        self, lease: Lease, steps: Mapping[str, str | None], limit: int
    ) -> tuple[set[str], list[Claim]]:
        """What has no limiter that is to be asked first, and the steps that have one."""
        wanted = (list(steps), list(steps.values()), self._limited)
        with reported():
            async with short_transaction(self._engine, durable=False) as driver:
                rows = await driver.fetch(self._sql.claim, lease.owner, lease.ms, limit, *wanted)
                claims = [_claim(row[1:]) for row in rows if row[1] is not None]
                places = limit - len(claims) if _EXPIRY in steps else 0
                ended = places and await driver.fetch(self._sql.claim_expired, lease.owner, lease.ms, places)
        claims += [_claim(row, ended=True) for row in ended or ()]
        return set(rows[0][0]), claims

    async def _claim_gated(self, lease: Lease, step: str, limiter: str, limit: int) -> Claimed:
        if not limit:
            return Claimed(claims=[])
        with reported():
            async with short_transaction(self._engine, durable=False) as driver:
                limited = step in self._limited
                if limited:
                    await self._gates.lock_log(driver)
                book = await self._gates.open(driver, [limiter], asking=() if limited else None)
                # For these something is to be recorded now, and that needs no limiter: whatever may yet be sent for one asks it
                # then. First, since they would else use up slots, and the right to probe, and send nothing.
                ended = await driver.fetch(self._sql.claim_ended, lease.owner, lease.ms, limit, step)
                room, held = book.room(limiter, limit - len(ended))
                rows = await driver.fetch(self._sql.claim_gated, lease.owner, lease.ms, len(room), step)
                taken = book.take(limiter, len(rows))
                more = held is not None and len(rows) == len(room)
                await self._gates.write(driver, book)
        claims = [_claim(row, ended=True) for row in ended]
        claims += [_claim(row, slot_ms=whole_ms(slot - book.now)) for row, slot in zip(rows, taken, strict=True)]
        return Claimed(claims=claims, paced_ms=_paced_ms(held, book.now) if more else None)

    async def heartbeat(self, lease: Lease, stream_ids: Sequence[UUID]) -> set[UUID]:
        """DenialReason the leases of its owner on these rows for another `lease.ms`. Returns those for which that was done."""
        rows = await self._execute(self._sql.heartbeat, lease.owner, lease.ms, list(stream_ids))
        return {row[0] for row in rows}

    async def release(self, owner: UUID, stream_id: UUID, delay_ms: int, step: str | None = None) -> None:
        """Give a row back, to be claimed by anybody after `delay_ms`, as due for `step` if one is named.

        Nothing when the lease was lost.
        """
        await self._execute(self._sql.release, owner, stream_id, delay_ms, step)

    async def release_all(self, owners: Iterable[UUID]) -> None:
        """Give back whatever these owners still hold, to be claimed by anybody at once, and let other processes know."""
        await self._execute(self._sql.release_all, list(owners), channel(self._schema))

    async def backlog(self, steps: Mapping[str, str | None]) -> Backlog:
        """How much is left."""
        rows = await self._execute(self._sql.backlog, steps.get(_WEBHOOK), _WEBHOOK in steps)
        return Backlog(unfinished=rows[0][0])

    async def is_idle(self, steps: Mapping[str, str | None]) -> bool:
        """Whether nothing is left that `backlog` would count."""
        with reported():
            async with driver_connection(self._engine) as driver:
                return not await driver.fetchval(self._sql.is_unfinished, steps.get(_WEBHOOK), _WEBHOOK in steps)

    async def outlook(self, steps: Mapping[str, str | None]) -> Outlook:
        """What there is to do now, and when to look again: one statement, in no transaction of its own."""
        with reported():
            async with driver_connection(self._engine) as driver:
                claimable, next_due_ms, unprojected = await driver.fetchrow(
                    self._sql.outlook,
                    list(PROJECTIONS),
                    list(steps),
                    list(steps.values()),
                )
        return Outlook(claimable=frozenset(claimable), next_due_ms=next_due_ms, unprojected=unprojected)

    async def standing(self, stream_id: UUID) -> WorkStatus:
        """How this session stands among the work now. Locks nothing."""
        now, version, in_flight, step, *rest = (await self._execute(self._sql.standing, stream_id, self._limited))[0]
        due_at, owner, lease_until, ends_at, ahead = rest
        row = step and DueStepRow(
            step=step, due_at=due_at, owner=owner, lease_until=lease_until, ends_at=ends_at, ahead=ahead
        )
        return WorkStatus(now=now, version=version, in_flight=in_flight, row=row)

    async def _execute(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        with reported():
            async with short_transaction(self._engine, durable=False) as driver:
                rows: Sequence[Sequence[Any]] = await driver.fetch(statement, *values)
                return rows


def _claim(row: Sequence[Any], *, slot_ms: int | None = None, ended: bool = False) -> Claim:
    stream_id, step, due_at, claimed_at = row
    return Claim(stream_id=stream_id, step=step, due_at=due_at, claimed_at=claimed_at, slot_ms=slot_ms, ended=ended)


def _paced_ms(held: Denied | None, now: datetime) -> int | None:
    if held is None or held.by not in (DenialReason.PACE, DenialReason.CALLS):
        return None
    return whole_ms(held.until - now)
