"""One row for each limiter that knows something, locked while it is used."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.limits.rows import locked_limits, row_columns, states_of, written_limits
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver, reading, short_transaction
from guestledger.engine.domain.due import PROVIDER_STEPS, StepName
from guestledger.engine.limits.admission import AdmissionRequest, Admitted, Denied
from guestledger.engine.limits.capacity import at_limit, capacity
from guestledger.engine.limits.feedback import Feedback
from guestledger.engine.limits.limiter import admit, observe, reserve, sending_wait
from guestledger.engine.limits.pace import Pace
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.state import LimiterState

COUNTED = sorted({*PROVIDER_STEPS, StepName.SETTLE_ATTEMPT})
"""A leased row of one of these counts as a call in flight: an attempt in flight holds `settle_attempt`."""
_FIELDS = LimiterState.__struct_fields__

LimiterChanged = Callable[[str, LimiterState, datetime], None]
"""Gets each state that this process writes: the limiter's name, the state, and the database's time."""


class LimiterTransaction:
    """The limiters that one transaction has locked, as they are at `now`."""

    def __init__(
        self, found: Mapping[str, LimiterState], now: datetime, policy: LimiterPolicy, in_flight: int = 0
    ) -> None:
        self.now = now
        self._found = found
        self._policy = policy
        self._in_flight = in_flight
        self._states = {name: state.following(now) for name, state in found.items()}

    def sending_wait(self, name: str) -> timedelta:
        """How long the next request that is admitted early waits before it is sent."""
        return sending_wait(self._state(name), self.now)

    def admit(self, request: AdmissionRequest) -> Denied | None:
        """Admit a request, or say what denies it."""
        if not request.reserved and (denied := at_limit(self._in_flight, self.now, self._policy)):
            return denied
        state = self._state(request.limiter)
        self._states[request.limiter], denied = admit(state, request, self.now, self._policy)
        self._in_flight += denied is None and not request.reserved
        return denied

    def probes(self, name: str) -> bool:
        """Whether an admitted request is a probe."""
        return self._state(name).broken_at is not None

    def observe(self, feedback: Feedback) -> None:
        """Take in what an answer shows."""
        self._states[feedback.limiter] = observe(self._state(feedback.limiter), feedback, self.now, self._policy)

    def capacity(self, name: str, wanted: int) -> tuple[list[datetime], Denied | None]:
        """See `capacity`."""
        return capacity(self._state(name), wanted, self._in_flight, self.now, self._policy)

    def reserve(self, name: str, number: int) -> list[datetime]:
        """Reserve `number` of these requests."""
        self._states[name], times, _ = reserve(self._state(name), number, self.now)
        self._in_flight += len(times)
        return times

    def changed(self) -> int:
        """How many states differ from what is written."""
        return sum(state != self._found.get(name) for name, state in self._states.items())

    def kept(self) -> dict[str, LimiterState]:
        """The changed states to write."""
        changed = {
            name: state for name, state in self._states.items() if state != self._found.get(name, LimiterState())
        }
        return {name: state for name, state in changed.items() if not state.is_clean(self.now, self._policy)}

    def dropped(self) -> list[str]:
        """The limiters whose rows can be deleted."""
        return [name for name in self._found if self._states[name].is_clean(self.now, self._policy)]

    def columns(self) -> tuple[str, list[str]]:
        """The values for `written_limits`."""
        return row_columns(self.kept(), self.dropped())

    def _state(self, name: str) -> LimiterState:
        return self._states.get(name, LimiterState())


class PostgresRateLimiter:
    """See `RateLimiter`."""

    def __init__(
        self, engine: AsyncEngine, schema: str, policy: LimiterPolicy, *, changed: LimiterChanged = lambda *_: None
    ) -> None:
        self._engine = engine
        self._changed = changed
        self.policy = policy
        self._uncounted = replace(policy, calls=None)
        s, columns = quoted(schema), ", ".join(_FIELDS)
        # As text: a host's connections may have codecs of their own for json.
        read = columns.replace("pace", "pace::text AS pace")
        self._read_all = f"SELECT name, {read}, clock_timestamp() AS now FROM {s}.limits ORDER BY name"
        # The clock once the locks are held.
        self._lock = f"SELECT states, clock_timestamp() FROM {locked_limits(schema, '$1')}"
        self._lock_head = f"SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"
        self._in_flight = f"""
            SELECT count(*) FROM {s}.due_steps
             WHERE step = ANY($1::text[]) AND owner IS NOT NULL AND lease_until > now() AND stream_id <> ALL($2::uuid[])"""
        self._write = f"WITH {written_limits(schema, '$1', '$2')} SELECT"
        self._drop = f"DELETE FROM {s}.limits WHERE name = ANY($1::text[])"

    async def admit(self, request: AdmissionRequest, asking: Collection[UUID] | None = None) -> Admitted | Denied:
        """See `RateLimiter.admit`."""
        with reported():
            async with short_transaction(self._engine, durable=False) as driver:
                await self.lock_head(driver)
                limiters = await self.open(driver, [request.limiter], asking=asking)
                wait = limiters.sending_wait(request.limiter) if request.early else timedelta(0)
                denied = limiters.admit(request)
                await self.write(driver, limiters)
                return denied or Admitted(at=limiters.now, probes=limiters.probes(request.limiter), wait=wait)

    async def observe(self, feedback: Feedback) -> None:
        """See `RateLimiter.observe`."""
        with reported():
            async with short_transaction(self._engine) as driver:
                await self.lock_head(driver)
                limiters = await self.open(driver, [feedback.limiter])
                limiters.observe(feedback)
                await self.write(driver, limiters)

    async def states(self) -> dict[str, LimiterState]:
        """See `RateLimiter.states`."""
        with reported():
            async with reading(self._engine) as driver:
                rows = await driver.fetch(self._read_all)
        found = ((*_state(row), row["now"]) for row in rows)
        return {
            name: state.without_forgotten(now) for name, state, now in found if not state.is_clean(now, self.policy)
        }

    async def reset(self, name: str) -> bool:
        """See `RateLimiter.reset`."""
        with reported():
            async with short_transaction(self._engine) as driver:
                return str(await driver.execute(self._drop, [name])) != "DELETE 0"

    async def follow_clock(self) -> int:
        """If the clock was set back, begin the pauses again that were imposed before. Returns how many limiters changed."""
        with reported():
            async with short_transaction(self._engine) as driver:
                await self.lock_head(driver)
                limiters = await self.open(driver, list(dict(map(_state, await driver.fetch(self._read_all)))))
                changed = limiters.changed()
                await self.write(driver, limiters)
                return changed

    async def lock_head(self, driver: Driver) -> None:
        """Lock the ledger's head row, before any other lock.

        A limiter without a row cannot be locked itself, and two that count calls at once would both take the last place.
        """
        await driver.execute(self._lock_head)

    async def open(
        self, driver: Driver, names: Collection[str], *, asking: Collection[UUID] | None = None
    ) -> LimiterTransaction:
        """The limiters of these names, locked until the transaction ends. `asking`: see `RateLimiter`."""
        states, now = await driver.fetchrow(self._lock, list(names))
        return await self.opened(driver, states_of(states), now, asking=asking)

    async def opened(
        self,
        driver: Driver,
        found: Mapping[str, LimiterState],
        now: datetime,
        *,
        asking: Collection[UUID] | None = None,
    ) -> LimiterTransaction:
        """As `open`, with what was found under the lock at `now`, the database's time."""
        if asking is None or self.policy.calls is None:
            return LimiterTransaction(found, now, self._uncounted)
        return LimiterTransaction(
            found, now, self.policy, await driver.fetchval(self._in_flight, COUNTED, list(asking))
        )

    async def write(self, driver: Driver, limiters: LimiterTransaction) -> None:
        """Write what has changed."""
        if limiters.kept() or limiters.dropped():
            await driver.execute(self._write, *limiters.columns())
            self.note_written(limiters)

    def note_written(self, limiters: LimiterTransaction) -> None:
        """Report what was written."""
        for name, state in limiters.kept().items():
            self._changed(name, state, limiters.now)
        for name in limiters.dropped():
            self._changed(name, LimiterState(), limiters.now)


def _state(row: Any) -> tuple[str, LimiterState]:
    pace = row["pace"] and msgspec.json.decode(row["pace"], type=Pace)
    return row["name"], msgspec.convert({field: row[field] for field in _FIELDS} | {"pace": pace}, LimiterState)
