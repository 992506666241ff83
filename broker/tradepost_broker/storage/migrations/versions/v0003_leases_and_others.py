"""Leases say what having lost them is evidence of, and whether and how well others confirm their results."""

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ROWS = 1000
_NEW: dict[str, object] = {"pending_evidence": None, "must_be_confirmed": False, "shares": {}}


def upgrade() -> None:
    """Write the new fields into every lease that can be read. None that was lost before is pending."""
    leases = sa.table("leases", sa.column("id", sa.String()), sa.column("body", sa.LargeBinary()))
    connection, last = op.get_bind(), ""
    while rows := connection.execute(
        sa.select(leases).where(leases.c.id > last).order_by(leases.c.id).limit(_ROWS)
    ).all():
        for id_, body in rows:
            try:
                fields = msgspec.msgpack.decode(body, type=dict)
            except msgspec.MsgspecError:
                continue  # the broker leaves it out, and names it
            written = msgspec.msgpack.encode(fields | _NEW)
            connection.execute(leases.update().where(leases.c.id == id_).values(body=written))
        last = rows[-1].id
