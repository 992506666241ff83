"""What was set aside: work that made the market fail, and records that the broker goes on without."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, and to each start the records that it left out."""
    op.create_table(
        "set_aside",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("event", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_set_aside")),
    )
    with op.batch_alter_table("runs", recreate="always") as runs:
        runs.add_column(sa.Column("left_out", sa.LargeBinary(), nullable=True))
