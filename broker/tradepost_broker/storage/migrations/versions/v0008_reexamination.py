"""Jobs say what their submitter wants if a result is found wrong, which is in doubt, and what was changed."""

import sqlalchemy as sa
from alembic import op

from tradepost_broker.storage.migrations.record_bodies import add_fields

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NEW: dict[str, object] = {
    "on_wrong": "redo",
    "in_doubt_until": None,
    "verdict_changed_at": None,
    "redone_after": 0,
    "spent": 0,
}


def upgrade() -> None:
    """Add the column, and write the new fields into every job that can be read."""
    without_rowid = {"sqlite_with_rowid": False}
    with op.batch_alter_table("jobs", recreate="always", table_kwargs=without_rowid) as jobs:
        jobs.add_column(sa.Column("verdict_changed_at", sa.Float(), nullable=True), insert_after="spot_check")
    op.create_index(
        "ix_jobs_verdict_changed_at",
        "jobs",
        ["account", "verdict_changed_at"],
        unique=False,
        sqlite_where=sa.text("verdict_changed_at IS NOT NULL"),
    )
    add_fields("jobs", _NEW)
