"""How jobs on each pipeline end, which leases were lost by the job's own doing, and contradicted results."""

import sqlalchemy as sa
from alembic import op

from tradepost_broker.storage.migrations.record_bodies import add_fields

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NEW_LEASE: dict[str, object] = {"run_failed": False}
_NEW_JOB: dict[str, object] = {"accused": (), "accused_until": None}


def upgrade() -> None:
    """Add the table, and write the new fields into every lease and job that can be read."""
    op.create_table(
        "pipeline_uses",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("pipeline", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["pipeline"], ["pipelines.id"], name=op.f("fk_pipeline_uses_pipeline_pipelines")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_uses")),
        sqlite_with_rowid=False,
    )
    add_fields("leases", _NEW_LEASE)
    add_fields("jobs", _NEW_JOB)
