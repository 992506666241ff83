"""Leases say which results they contradict, and which stage proves it."""

from tradepost_broker.storage.migrations.record_bodies import add_fields

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Write the new field into every lease that can be read."""
    add_fields("leases", {"contradicts": {}})
