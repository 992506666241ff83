"""Whether the journal has revocation lists, without reading all of it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index of the few events that matter."""
    op.create_index(
        "ix_journal_revocations", "journal", ["seq"], sqlite_where=sa.text("kind = 'revocations_issued'")
    )
