"""The sessions that will soon expire are found without reading all there ever were."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("sessions_expires_at", "sessions", ["expires_at"], schema=op.get_context().version_table_schema)
