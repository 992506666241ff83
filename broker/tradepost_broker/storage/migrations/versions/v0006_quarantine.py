"""How jobs on each pipeline end, which leases were lost by the job's own doing, and contradicted results."""

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ROWS = 1000
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
    _write("leases", _NEW_LEASE)
    _write("jobs", _NEW_JOB)


def _write(table: str, new: dict[str, object]) -> None:
    """Write new fields into the body of every row that can be read."""
    rows_of = sa.table(table, sa.column("id", sa.String()), sa.column("body", sa.LargeBinary()))
    connection, last = op.get_bind(), ""
    while rows := connection.execute(
        sa.select(rows_of).where(rows_of.c.id > last).order_by(rows_of.c.id).limit(_ROWS)
    ).all():
        for id_, body in rows:
            try:
                fields = msgspec.msgpack.decode(body, type=dict)
            except msgspec.MsgspecError:
                continue  # the broker leaves it out, and names it
            written = msgspec.msgpack.encode(fields | new)
            connection.execute(rows_of.update().where(rows_of.c.id == id_).values(body=written))
        last = rows[-1].id
