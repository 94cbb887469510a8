"""Checkpoints of projections, rebuilds and verifications."""

from collections.abc import Sequence
from typing import NamedTuple

from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver


class Locked(NamedTuple):
    """Checkpoints that the transaction has locked."""

    positions: dict[str, int]
    stopped: tuple[str, ...]
    """By a poison event."""
    head: int
    """The log's last position when the statement began."""


class Checkpoints:
    """The table of checkpoints."""

    def __init__(self, schema: str) -> None:
        self._schema = quoted(schema)

    async def lock(self, driver: Driver, names: Sequence[str]) -> Locked:
        """Lock these checkpoints, in the order of their names."""
        rows = await driver.fetch(
            f"""
            SELECT projection, position, error IS NOT NULL AS stopped,
                   coalesce((SELECT position FROM {self._schema}.batches ORDER BY position DESC LIMIT 1), -1) AS head
              FROM {self._schema}.checkpoints
             WHERE projection = ANY($1::text[]) ORDER BY projection FOR UPDATE""",
            list(names),
        )
        return Locked(
            positions={row["projection"]: row["position"] for row in rows},
            stopped=tuple(row["projection"] for row in rows if row["stopped"]),
            head=rows[0]["head"] if rows else -1,
        )

    async def position(self, driver: Driver, name: str) -> int | None:
        """The position of one checkpoint."""
        statement = f"SELECT position FROM {self._schema}.checkpoints WHERE projection = $1"
        position: int | None = await driver.fetchval(statement, name)
        return position

    async def add(self, driver: Driver, name: str) -> None:
        """Add a checkpoint before the first event."""
        await driver.execute(f"INSERT INTO {self._schema}.checkpoints (projection, position) VALUES ($1, -1)", name)

    async def drop(self, driver: Driver, names: Sequence[str]) -> None:
        """Delete these checkpoints."""
        await driver.execute(f"DELETE FROM {self._schema}.checkpoints WHERE projection = ANY($1::text[])", list(names))

    async def stop(self, driver: Driver, name: str, position: int, error: str) -> None:
        """Record why a projection stopped before `position`, unless a newer release has passed it."""
        await driver.execute(
            f"""
            UPDATE {self._schema}.checkpoints SET stopped_at = now(), error = $3
             WHERE projection = $1 AND position < $2::bigint AND error IS DISTINCT FROM $3""",
            name,
            position,
            error,
        )
