"""The keys of requests are append-only, as the events are. The roles and their grants are put right behind every migration."""

from alembic import op

from guestledger.adapters.postgres.statements import quoted

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    s = quoted(op.get_context().version_table_schema)
    op.execute(
        f"""
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.request_keys
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change()"""
    )
    op.execute(f"ALTER TABLE {s}.request_keys ENABLE ALWAYS TRIGGER append_only")
