"""Jobs say what their submitter wants if a result is found wrong, which is in doubt, and what was changed."""

from tradepost_broker.storage.migrations.record_bodies import add_fields

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NEW: dict[str, object] = {"on_wrong": "redo", "in_doubt_until": None, "verdict_changed_at": None}


def upgrade() -> None:
    """Write the new fields into every job that can be read."""
    add_fields("jobs", _NEW)
