"""The ledger: log and partitions, due steps and limits, consumers, projections.

There is no downgrade: it would drop the log, which is the proof.
"""

from alembic import op

from guestledger.migrations.baseline import log, personal, projections, work

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    assert schema is not None
    for group in (log, personal, work, projections):
        group.create(schema)
