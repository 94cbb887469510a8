"""One batch of appends, as one transaction."""

from datetime import datetime
from operator import attrgetter
from uuid import UUID

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction, PostgresRateLimiter
from guestledger.adapters.postgres.limits.rows import states_of
from guestledger.adapters.postgres.log.batch import BatchRows, LogEnd, Proposal
from guestledger.adapters.postgres.log.policies import PolicyRecord
from guestledger.adapters.postgres.log.statements import AppendStatements
from guestledger.adapters.postgres.transactions import Driver
from guestledger.engine.domain.policy import Policy
from guestledger.engine.log.appends import Append, Appended


class BatchWriter:
    """Writes batches to the log of one ledger, under its lock."""

    def __init__(self, schema: str, limiter: PostgresRateLimiter, policy: Policy) -> None:
        self.statements = AppendStatements(schema)
        self._limiter = limiter
        self._policy = PolicyRecord(schema, policy)

    async def lock(self, driver: Driver) -> None:
        """Open the transaction of a batch, and wait for the ledger's lock."""
        # The lock first, reading in a *later* statement: only its snapshot is sure to see the last commit. A row lock without
        # a change leaves no dead row.
        await driver.execute(self.statements.begin)

    async def write(self, driver: Driver, batch: list[Proposal]) -> tuple[list[Appended | Exception], bool]:
        """Write a batch under the lock, and commit it.

        Returns the outcome of each append, in order, and whether a step is due now that any process may claim.
        """
        # Three round trips, seldom more, which every process's appends wait for.
        log = await self.read_log(driver, batch)
        limiters = await self.open_limiters(driver, batch, log)
        rows = BatchRows(log, limiters)
        outcomes = [rows.take(proposal) for proposal in batch]
        if log.asked:
            await driver.fetch(self.statements.append_limited, *rows.parameters(), *limiters.columns())
        else:
            await driver.fetch(self.statements.append, *rows.parameters())
        if records_policy := self._policy.wanted([proposal.append for proposal in batch]):
            await self._policy.write(driver, log.position, log.now)
        await driver.execute("COMMIT")
        self._policy.done = self._policy.done or records_policy
        self._limiter.note_written(limiters)
        return outcomes, rows.frees_work

    async def read_log(self, driver: Driver, batch: list[Proposal]) -> LogEnd:
        """Read the log's end, and what decides about these appends. Call it under the lock."""
        appends = [proposal.append for proposal in batch]
        stream_ids = [append.stream_id for append in appends]
        asked = _limiters(appends)
        low, high = min(stream_ids, key=_number), max(stream_ids, key=_number)
        statement = self.statements.read_log(low, high, limited=bool(asked))
        keys = [proposal.sealing.key for proposal in batch if proposal.sealing.key is not None]
        data_keys = list({key_id for proposal in batch for key_id in proposal.sealing.key_ids})
        subjects = list({proposal.sealing.subject for proposal in batch if proposal.sealing.subject is not None})
        [found_now] = await driver.fetch(statement, stream_ids, keys, data_keys, subjects, *([asked] if asked else []))
        now, limiters, states, position, last_at, found, taken, destroyed, fenced, kek = found_now
        stale = [append for append, version in zip(appends, found, strict=True) if version > append.expected_version]
        return LogEnd(
            position=-1 if position is None else position,
            now=now,
            recorded_at=now if last_at is None else max(now, last_at),
            versions=dict(zip(stream_ids, found, strict=True)),
            keys=dict(taken),
            destroyed=frozenset(destroyed),
            kek=kek,
            fenced=frozenset(fenced),
            known=await self._read_known(driver, stale, frozenset(limiters), now) if stale else {},
            limiters=frozenset(limiters),
            asked=asked,
            states=states_of(states),
        )

    async def open_limiters(self, driver: Driver, batch: list[Proposal], log: LogEnd) -> LimiterTransaction:
        """The limiters that these appends ask or feed back to."""
        # A request is admitted under the ledger's lock, together with its attempt, and a limiter closes together with its
        # 429: between a 429 and its `Retry-After` the log holds no attempt.
        admissions = ((proposal.append.stream_id, proposal.append.admission) for proposal in batch)
        asking = [stream_id for stream_id, asks in admissions if asks is not None and not asks.reserved]
        return await self._limiter.opened(driver, log.states, log.now, asking=asking or None)

    async def _read_known(
        self, driver: Driver, stale: list[Append], limiters: frozenset[str], now: datetime
    ) -> dict[tuple[UUID, int, UUID], Appended]:
        wanted = {(append.stream_id, append.expected_version, append.causation_id): append for append in stale}
        stream_ids, expected, causation_ids = (list(column) for column in zip(*wanted, strict=True))
        firsts = await driver.fetch(self.statements.read_known, stream_ids, expected, causation_ids)
        known = {}
        for stream_id, expected_version, causation_id, position, recorded_at in firsts:
            key = (stream_id, expected_version, causation_id)
            more = len(wanted[key].events)
            known[key] = Appended(
                version=expected_version + more,
                position=position + more - 1,
                recorded_at=recorded_at,
                at=now,
                limiters=limiters,
            )
        return known


def _limiters(appends: list[Append]) -> list[str]:
    asked = (asked for append in appends for asked in (append.admission, append.feedback))
    return sorted({one.limiter for one in asked if one is not None})


_number = attrgetter("int")
