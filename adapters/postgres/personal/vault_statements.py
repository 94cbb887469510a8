"""The SQL of the key vault."""

from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import RELAXED

INDEX = "index"
"""The purpose of the key that subjects and addresses are hashed under. It belongs to no subject."""
IS_INDEX = f"subject = ''::bytea AND purpose = '{INDEX}'"
_COLUMNS = "key_id, subject, purpose, wrapped, kek"


class VaultStatements:
    """The statements for the vault in `schema`. If not `durable`, new data keys do not wait for the disk."""

    def __init__(self, schema: str, *, durable: bool) -> None:
        s = quoted(schema)
        relaxed = "" if durable else f", {RELAXED}"
        self.read_index = f"SELECT {_COLUMNS} FROM {s}.data_keys WHERE {IS_INDEX}"
        self.make_index = f"""
            WITH made AS (
                INSERT INTO {s}.data_keys (key_id, subject, purpose, wrapped, kek)
                VALUES ($1::uuid, $2::bytea, $3::text, $4::bytea, $5::text)
                ON CONFLICT (subject, purpose) DO NOTHING RETURNING kek
            )
            INSERT INTO {s}.wrapping_keys (id, source, wrapped)
            SELECT kek, $6::text, $7::bytea FROM made WHERE $6::text IS NOT NULL
            RETURNING id"""
        """The first key of the ledger, with the key-encryption key that a key service made for it."""
        # Keys are made only under the key that wraps the index key: a rotation changes that one first.
        self.get_or_make = f"""
            WITH wanted AS (
                SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::bytea[], $5::text[])
                    AS w(key_id, subject, purpose, wrapped, kek)
            ), made AS (
                INSERT INTO {s}.data_keys (key_id, subject, purpose, wrapped, kek)
                SELECT * FROM wanted WHERE kek = (SELECT kek FROM {s}.data_keys WHERE {IS_INDEX})
                ON CONFLICT (subject, purpose) DO NOTHING
                RETURNING {_COLUMNS}
            )
            SELECT {_COLUMNS}{relaxed} FROM made
             UNION ALL
            SELECT k.key_id, subject, purpose, k.wrapped, k.kek{relaxed}
              FROM {s}.data_keys AS k JOIN wanted USING (subject, purpose)"""
        self.read = f"SELECT {_COLUMNS} FROM {s}.data_keys WHERE key_id = ANY($1::uuid[])"
        self.read_with_others = f"""
            SELECT {_COLUMNS} FROM {s}.data_keys
             WHERE subject = ANY(ARRAY(SELECT subject FROM {s}.data_keys WHERE key_id = ANY($1::uuid[])))"""
        """As `read`, with the other keys of the same subjects."""
        self.read_ids = f"""
            SELECT key_id FROM {s}.data_keys
             WHERE subject = $1::bytea AND purpose = coalesce($2::text, purpose) AND NOT ({IS_INDEX})"""
        self.destroy = f"DELETE FROM {s}.data_keys WHERE key_id = ANY($1::uuid[]) AND NOT ({IS_INDEX})"


class RotationStatements:
    """The statements that list and rotate key-encryption keys."""

    def __init__(self, schema: str) -> None:
        s = quoted(schema)
        self.count = f"""
            SELECT kek, source, count(*), bool_or({IS_INDEX}) AS is_current
              FROM {s}.data_keys LEFT JOIN {s}.wrapping_keys ON id = kek
             GROUP BY kek, source ORDER BY is_current DESC, kek"""
        self.lock = f"LOCK TABLE {s}.data_keys IN SHARE ROW EXCLUSIVE MODE"
        self.lock_log = f"SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"
        self.next = f"""
            SELECT {_COLUMNS} FROM {s}.data_keys
             WHERE kek <> $1::text AND (subject, purpose) > ($2::bytea, $3::text)
             ORDER BY subject, purpose LIMIT $4::int"""
        self.rewrap = f"""
            UPDATE {s}.data_keys AS k SET wrapped = w.wrapped, kek = $3::text
              FROM unnest($1::uuid[], $2::bytea[]) AS w(key_id, wrapped)
             WHERE k.key_id = w.key_id
            RETURNING k.key_id"""
        self.store = f"""
            INSERT INTO {s}.wrapping_keys (id, source, wrapped) VALUES ($1::text, $2::text, $3::bytea)
            ON CONFLICT (id) DO NOTHING RETURNING id"""
        self.forget_unused = f"""
            DELETE FROM {s}.wrapping_keys AS w WHERE NOT EXISTS (SELECT FROM {s}.data_keys WHERE kek = w.id)"""
