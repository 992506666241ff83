"""Jobs are found by their account, so that listing them does not read those of all others."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index on `jobs`."""
    op.create_index("ix_jobs_account", "jobs", ["account", "id"], unique=False)
