"""Shadow tables, and statements that compare them with the live ones."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from sqlalchemy import Table

from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import UNHURRIED_SECONDS, Driver
from guestledger.engine.projections.status import Verification

_PREFETCH = 500
_MAX_SHOWN = 10


def shadow_name(table: Table) -> str:
    """The name of a live table's shadow."""
    return f"{table.name}_shadow"


def declare_shadow(table: Table) -> Table:
    """Add a table's shadow to its metadata: the same columns and key, no other index."""
    shadow = table.to_metadata(table.metadata, name=shadow_name(table))
    shadow.indexes.clear()
    return shadow


class Shadow:
    """A live table and its shadow."""

    def __init__(self, table: Table, schema: str, *, shadow_schema: str | None = None) -> None:
        live = f"{quoted(schema)}.{table.name}"
        shadow = f"{quoted(shadow_schema or schema)}.{shadow_name(table)}"
        columns = [column.name for column in table.columns]
        keys = [column.name for column in table.primary_key]
        others = [name for name in columns if name not in keys]
        same_key = " AND ".join(f"live.{key} = shadow.{key}" for key in keys)
        differ = f"ROW({_of('live', columns)}) IS DISTINCT FROM ROW({_of('shadow', columns)})"
        # Rows of a detached partition cannot be made again.
        detached = f"SELECT FROM {quoted(schema)}.detached_partitions AS detached WHERE {_in_detached(table)}"
        either = ", ".join(f"coalesce(live.{key}, shadow.{key})" for key in keys)

        self.lock = f"LOCK TABLE {shadow} IN ACCESS SHARE MODE"

        self.lock_alone = f"LOCK TABLE {shadow} IN ACCESS EXCLUSIVE MODE NOWAIT"

        self.truncate = f"TRUNCATE {shadow}"

        self.delete_all = f"DELETE FROM {shadow}"

        self.delete_surplus = f"""
            DELETE FROM {live} AS live WHERE NOT EXISTS (SELECT FROM {shadow} AS shadow WHERE {same_key})
               AND NOT EXISTS ({detached})"""

        self.write_differing = f"""
            INSERT INTO {live} ({", ".join(columns)})
            SELECT {_of("shadow", columns)} FROM {shadow} AS shadow LEFT JOIN {live} AS live ON {same_key}
             WHERE {differ}
            ON CONFLICT ({", ".join(keys)}) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in others)}"""

        self.differing = f"""
            SELECT concat_ws(' ', '{table.name}', {either},
                             CASE WHEN live.{keys[0]} IS NULL THEN 'is missing'
                                  WHEN shadow.{keys[0]} IS NULL THEN 'is not in the log'
                                  ELSE 'differs' END)
              FROM {live} AS live FULL JOIN {shadow} AS shadow ON {same_key}
             WHERE {differ} AND NOT EXISTS ({detached}) ORDER BY {either} LIMIT $1"""

        self.live_rows = _hashes(f"{live} AS live WHERE NOT EXISTS ({detached})", columns, keys)
        # The partition may have been detached after the rebuild read it.
        self.shadow_rows = _hashes(f"{shadow} AS live WHERE NOT EXISTS ({detached})", columns, keys)


def _in_detached(table: Table) -> str:
    """Whether a live row is in a detached partition."""
    if "month" in table.c:
        return "live.month = detached.month"
    (key, *_) = (column.name for column in table.primary_key)
    return f"live.{key} >= detached.first_id AND live.{key} < detached.end_id"


def _of(table: str, columns: list[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)


def _hashes(rows: str, columns: list[str], keys: list[str]) -> str:
    """Select each row's SHA-256, in order of the key: no personal data leaves the server."""
    return f"SELECT sha256(convert_to(ROW({', '.join(columns)})::text, 'UTF8')) FROM {rows} ORDER BY {', '.join(keys)}"


async def compare(driver: Driver, shadows: Sequence[Shadow], name: str, position: int) -> Verification:
    """Compare the live tables of a projection with their shadows, both built up to `position`. Within a transaction."""
    rows, digest = await _digest_of(driver, [shadow.live_rows for shadow in shadows])
    _, rebuilt_digest = await _digest_of(driver, [shadow.shadow_rows for shadow in shadows])
    differing: list[str] = []
    for shadow in shadows if digest != rebuilt_digest else ():
        differing += [text for (text,) in await driver.fetch(shadow.differing, _MAX_SHOWN, timeout=UNHURRIED_SECONDS)]
    return Verification(
        name=name,
        position=position,
        rows=rows,
        digest=digest,
        rebuilt_digest=rebuilt_digest,
        differing=tuple(differing[:_MAX_SHOWN]),
    )


async def _digest_of(driver: Driver, statements: Iterable[str]) -> tuple[int, str]:
    """How many rows these statements have together, and the SHA-256 (hex) of their contents."""
    rows, digest = 0, sha256()
    for statement in statements:
        async for (row,) in driver.cursor(statement, prefetch=_PREFETCH, timeout=UNHURRIED_SECONDS):
            digest.update(row)
            rows += 1
    return rows, digest.hexdigest()
