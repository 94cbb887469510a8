"""RateLimiter in PostgreSQL: a row for each that anything is known against, locked while it is asked or told something."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import Driver, driver_connection, reported, short_transaction
from guestledger.adapters.postgres.statements import quoted
from guestledger.engine.limits.capacity import full, room
from guestledger.engine.limits.limiter import LimiterState, admit, observe, slots
from guestledger.engine.limits.policy import AdmissionRequest, Admitted, Denied, Feedback, LimiterPolicy
from guestledger.engine.worker.session_work import TOWARDS_CREATION

LIMITED = sorted(kind.__name__ for kind in TOWARDS_CREATION)
"""The steps whose calls are counted where their number is limited: each row that is leased for one has a place."""
_FIELDS = LimiterState.__struct_fields__


class LimiterTransaction:
    """The limiters that one transaction has locked, as they are at `now`. What becomes of them is written by `PostgresRateLimiter`."""

    def __init__(
        self, found: Mapping[str, LimiterState], now: datetime, policy: LimiterPolicy, in_flight: int = 0
    ) -> None:
        self.now = now
        self._found = found
        self._policy = policy
        self._in_flight = in_flight
        self._gates = dict(found)

    def admit(self, passage: AdmissionRequest) -> Denied | None:
        """Let a request through, or say what holds it back."""
        if not passage.slotted and (held := full(self._in_flight, self.now, self._policy)):
            return held
        self._gates[passage.limiter], held = admit(self._gate(passage.limiter), passage, self.now, self._policy)
        self._in_flight += held is None and not passage.slotted
        return held

    def is_broken(self, name: str) -> bool:
        """Whether its circuit is broken, so that who is let through probes."""
        return self._gate(name).broken_at is not None

    def observe(self, hearing: Feedback) -> None:
        """Take in what an answer tells."""
        self._gates[hearing.limiter] = observe(self._gate(hearing.limiter), hearing, self.now, self._policy)

    def room(self, name: str, most: int) -> tuple[list[datetime], Denied | None]:
        """The next free slots, up to `most`, and what holds the next request back where there are fewer. None is taken."""
        return room(self._gate(name), most, self._in_flight, self.now, self._policy)

    def take(self, name: str, number: int) -> list[datetime]:
        """Take so many of the slots that there is room for."""
        self._gates[name], taken, _ = slots(self._gate(name), number, self.now, self._policy)
        self._in_flight += len(taken)
        return taken

    def kept(self) -> dict[str, LimiterState]:
        """Those that have changed and that something is known against."""
        return {
            name: limiter for name, limiter in self._changed().items() if not limiter.is_clean(self.now, self._policy)
        }

    def dropped(self) -> list[str]:
        """Those that nothing is known against any more."""
        return [name for name in self._found if self._gates[name].is_clean(self.now, self._policy)]

    def _changed(self) -> dict[str, LimiterState]:
        return {
            name: limiter for name, limiter in self._gates.items() if limiter != self._found.get(name, LimiterState())
        }

    def _gate(self, name: str) -> LimiterState:
        return self._gates.get(name, LimiterState())


class PostgresRateLimiter:
    """What all processes know together of the APIs that they call."""

    def __init__(self, engine: AsyncEngine, schema: str, policy: LimiterPolicy) -> None:
        self._engine = engine
        self._policy = policy
        s, columns = quoted(schema), ", ".join(_FIELDS)
        self._all = f"SELECT name, {columns} FROM {s}.limits ORDER BY name"
        self._lock = f"SELECT name, {columns} FROM {s}.limits WHERE name = ANY($1::text[]) ORDER BY name FOR UPDATE"
        self._alone = f"SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"
        self._in_flight = f"""
            SELECT count(*) FROM {s}.due_work
             WHERE step = ANY($1::text[]) AND lease_until > now() AND stream_id <> ALL($2::uuid[])"""
        values = ", ".join(f"${number}" for number in range(2, len(_FIELDS) + 2))
        renewed = ", ".join(f"{field} = excluded.{field}" for field in _FIELDS)
        self._write = f"""
            INSERT INTO {s}.limits (name, {columns}) VALUES ($1, {values}) ON CONFLICT (name) DO UPDATE SET {renewed}"""
        self._drop = f"DELETE FROM {s}.limits WHERE name = ANY($1::text[])"

    async def admit(self, passage: AdmissionRequest, asking: Collection[UUID] | None = None) -> Admitted | Denied:
        """Let a request through now, or say what holds it back.

        `asking` are the sessions that are leased for a call and have not been let through yet, this one's among them; `None`:
        the request needs no place among the calls whose number is limited, or has one with its slot.
        """
        with reported():
            async with short_transaction(self._engine, durable=False) as driver:
                await self.lock_log(driver)
                book = await self.open(driver, [passage.limiter], asking=asking)
                held = book.admit(passage)
                await self.write(driver, book)
                return held or Admitted(at=book.now, probes=book.is_broken(passage.limiter))

    async def observe(self, hearing: Feedback) -> None:
        """Take in what an answer tells, for one that no append records."""
        with reported():
            async with short_transaction(self._engine) as driver:
                await self.lock_log(driver)
                book = await self.open(driver, [hearing.limiter])
                book.observe(hearing)
                await self.write(driver, book)

    async def all(self) -> dict[str, LimiterState]:
        """Every limiter that anything is known against, by name."""
        with reported():
            async with driver_connection(self._engine) as driver:
                return dict(map(_gate, await driver.fetch(self._all)))

    async def forget(self, name: str) -> bool:
        """Forget what is known against this one; False when nothing is."""
        with reported():
            async with short_transaction(self._engine) as driver:
                return str(await driver.execute(self._drop, [name])) != "DELETE 0"

    async def lock_log(self, driver: Driver) -> None:
        """Take the ledger's lock, before any other: for who may make a limiter's row, or counts the calls in flight.

        A row that is not there cannot be locked, and two who count at once would both take the last place.
        """
        await driver.execute(self._alone)

    async def open(
        self,
        driver: Driver,
        names: Collection[str],
        *,
        now: datetime | None = None,
        clean: bool = False,
        asking: Collection[UUID] | None = None,
    ) -> LimiterTransaction:
        """The limiters of these names, locked until the transaction ends. `clean` says that there is no row to be locked.

        `now` is the time by the database's clock; without it, it is asked for when the locks are had. `asking` are the sessions
        whose call is to be let through, which is not in flight yet though they are leased; `None`: no call that is counted.
        """
        found = {} if clean else dict(map(_gate, await driver.fetch(self._lock, list(names))))
        now = now or await driver.fetchval("SELECT clock_timestamp()")
        if asking is None or self._policy.calls is None:
            return LimiterTransaction(found, now, replace(self._policy, calls=None))
        return LimiterTransaction(
            found, now, self._policy, await driver.fetchval(self._in_flight, LIMITED, list(asking))
        )

    async def write(self, driver: Driver, book: LimiterTransaction) -> None:
        """Write what has become of the limiters in `book`."""
        for name, limiter in book.kept().items():
            await driver.execute(self._write, name, *msgspec.structs.astuple(limiter))
        if dropped := book.dropped():
            await driver.execute(self._drop, dropped)


def _gate(row: Any) -> tuple[str, LimiterState]:
    return row["name"], LimiterState(**{field: row[field] for field in _FIELDS})
