"""Which chat belongs to which order."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "chats", sa.Column("number", sa.Text, primary_key=True), sa.Column("session", sa.Uuid, nullable=False)
    )


def downgrade() -> None:
    op.drop_table("chats")
