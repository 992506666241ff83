"""Which results another one was asked for by chance, though they would be believed alone."""

from tradepost_broker.storage.migrations.record_bodies import add_fields

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Write the new field into every lease that can be read."""
    add_fields("leases", {"recheck": False})
