"""Which owners gave the same wrong results, and which of them do so too often for chance."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "owner_pairs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_owner_pairs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "collusion_findings",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("found_at", sa.Float(), nullable=False),
        sa.Column("withdrawn_at", sa.Float(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collusion_findings")),
        sqlite_with_rowid=False,
    )
