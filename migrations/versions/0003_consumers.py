"""Named consumers of the log: how far each has come, and who holds it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "consumers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Uuid),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        schema=op.get_context().version_table_schema,
    )
