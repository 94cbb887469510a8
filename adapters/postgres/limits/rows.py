"""The rows of limiters, as parts of other statements: a batch of appends reads and writes them without a round trip of its own."""

from collections.abc import Collection, Mapping

import msgspec
from msgspec.structs import asdict

from guestledger.adapters.postgres.json_rows import json_text
from guestledger.adapters.postgres.sql import quoted
from guestledger.engine.limits.state import LimiterState

_FIELDS = LimiterState.__struct_fields__
_states = msgspec.json.Decoder(dict[str, LimiterState])


def locked_limits(schema: str, names: str) -> str:
    """A table of one row: `states` has the limiters with these names, whose rows it locks."""
    rows = f"SELECT * FROM {quoted(schema)}.limits WHERE name = ANY({names}::text[]) ORDER BY name FOR UPDATE"
    return f"(SELECT json_object_agg(name, found)::text AS states FROM ({rows}) AS found) AS locked"


def written_limits(schema: str, kept: str, dropped: str) -> str:
    """The parts of a WITH that write the rows in `kept`, and delete those with the names in `dropped`."""
    s, columns = quoted(schema), ", ".join(_FIELDS)
    renewed = ", ".join(f"{field} = excluded.{field}" for field in _FIELDS)
    return f"""
            kept_limits AS (
                INSERT INTO {s}.limits (name, {columns})
                SELECT name, {columns} FROM json_populate_recordset(NULL::{s}.limits, {kept}::text::json)
                ON CONFLICT (name) DO UPDATE SET {renewed}
            ), dropped_limits AS (
                DELETE FROM {s}.limits WHERE name = ANY({dropped}::text[])
            )"""


def states_of(text: str | None) -> dict[str, LimiterState]:
    """The limiters in `states`."""
    return {} if text is None else _states.decode(text)


def row_columns(kept: Mapping[str, LimiterState], dropped: Collection[str]) -> tuple[str, list[str]]:
    """The values for `written_limits`."""
    rows = [{"name": name, **asdict(state)} for name, state in kept.items()]
    return json_text(rows), list(dropped)
