"""The statements that hold a projection's live table against its shadow, where a rebuild makes the rows anew."""

from sqlalchemy import Table

from guestledger.adapters.postgres.statements import quoted
from guestledger.adapters.postgres.tables import SHADOWS

# Which rows of a live table belong to a detached month, by the first column of its key.
_MONTH = {
    "id": "live.id >= detached.first_id AND live.id < detached.end_id",
    "channel_id": "live.month = detached.month",
}


class Shadow:
    """A live table and its shadow."""

    def __init__(self, table: Table, schema: str) -> None:
        live, shadow = (f"{quoted(schema)}.{name}" for name in (table.name, SHADOWS[table.name].name))
        columns = [column.name for column in table.columns]
        keys = [column.name for column in table.primary_key]
        others = [name for name in columns if name not in keys]
        same_key = " AND ".join(f"live.{key} = shadow.{key}" for key in keys)
        differ = f"ROW({_of('live', columns)}) IS DISTINCT FROM ROW({_of('shadow', columns)})"
        # Rows of a month that is detached cannot be made anew; they stay as they are until it is back.
        kept = f"SELECT FROM {quoted(schema)}.detached_months AS detached WHERE {_MONTH[keys[0]]}"
        either = ", ".join(f"coalesce(live.{key}, shadow.{key})" for key in keys)

        self.lock = f"LOCK TABLE {shadow} IN ACCESS SHARE MODE"

        self.clear = f"TRUNCATE {shadow}"

        self.delete_surplus = f"""
            DELETE FROM {live} AS live WHERE NOT EXISTS (SELECT FROM {shadow} AS shadow WHERE {same_key})
               AND NOT EXISTS ({kept})"""

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
             WHERE {differ} AND NOT EXISTS ({kept}) ORDER BY {either} LIMIT $1"""

        self.live_rows = _hashes(f"{live} AS live WHERE NOT EXISTS ({kept})", columns, keys)
        # Of the shadow too: a month may have been detached since it was taken in there.
        self.shadow_rows = _hashes(f"{shadow} AS live WHERE NOT EXISTS ({kept})", columns, keys)


def _of(table: str, columns: list[str]) -> str:
    return ", ".join(f"{table}.{column}" for column in columns)


def _hashes(rows: str, columns: list[str], keys: list[str]) -> str:
    """SHA-256 of each row's text, in order of the key: what leaves the server holds nothing personal."""
    return f"SELECT sha256(convert_to(ROW({', '.join(columns)})::text, 'UTF8')) FROM {rows} ORDER BY {', '.join(keys)}"
