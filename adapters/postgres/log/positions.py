"""Where a time is in the log."""

from guestledger.adapters.postgres.sql import quoted


def last_before(schema: str, moment: str, *, inclusive: bool = False) -> str:
    """SQL of the last position that was recorded before `moment`, an SQL expression; -1: there is none.

    A binary search over the batches: times never run against positions, and the table has no index of them.
    """
    s, before = quoted(schema), f"batch.recorded_at {'<=' if inclusive else '<'} {moment}"
    # All positions up to `low` are before the moment, none behind `high` is.
    return f"""
        (WITH RECURSIVE search(low, high) AS (
             SELECT -1::bigint, coalesce((SELECT position FROM {s}.batches ORDER BY position DESC LIMIT 1), -1)
              UNION ALL
             SELECT CASE WHEN {before} THEN batch.position ELSE low END,
                    CASE WHEN {before} THEN high ELSE middle - 1 END
               FROM search CROSS JOIN LATERAL (SELECT low + (high - low + 1) / 2 AS middle) AS half
               CROSS JOIN LATERAL (
                    SELECT position, recorded_at FROM {s}.batches
                     WHERE position >= middle ORDER BY position LIMIT 1) AS batch
              WHERE low < high)
         SELECT max(low) FROM search)"""
