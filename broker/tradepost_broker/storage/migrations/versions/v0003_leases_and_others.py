"""Leases say what having lost them is evidence of, and whether and how well others confirm their results."""

from tradepost_broker.storage.migrations.record_bodies import add_fields

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NEW: dict[str, object] = {"pending_evidence": None, "must_be_confirmed": False, "shares": {}}


def upgrade() -> None:
    """Write the new fields into every lease that can be read. None that was lost before is pending."""
    add_fields("leases", _NEW)
