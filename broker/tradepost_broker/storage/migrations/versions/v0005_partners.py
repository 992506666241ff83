"""Evidence says for whom it counts, leases how they were drawn and priced, pipelines who claims which key."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ROWS = 1000
_NEW: dict[str, dict[str, object]] = {
    "leases": {"drawn_from": 0, "price_share": 1.0},
    "pipelines": {"claims": []},
}
_TEXTS = ("pipeline", "account", "partner")
_NUMBERS = ("checks", "vouched_checks")
#: What a finding counted as before, by a policy's fields or else their defaults.
_DEFAULTS = {"agreed_checks": 0.25, "outvoted_checks": 10.0}


def upgrade() -> None:
    """Write the new fields into every record that can be read.

    Evidence counts as it did when it was found, now only for the submitter and the pipeline that it is about.
    """
    for name, fields in _NEW.items():
        _extend_bodies(name, fields)
    without_rowid = {"sqlite_with_rowid": False}
    with op.batch_alter_table("evidence", recreate="always", table_kwargs=without_rowid) as evidence:
        for name in _TEXTS:
            evidence.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
        for name in _NUMBERS:
            evidence.add_column(sa.Column(name, sa.Float(), nullable=False, server_default="0"))
    # The defaults were for the rows that there are.
    with op.batch_alter_table("evidence", recreate="always", table_kwargs=without_rowid) as evidence:
        for name in (*_TEXTS, *_NUMBERS):
            evidence.alter_column(name, server_default=None)
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "UPDATE evidence SET pipeline = jobs.pipeline, account = jobs.account "
            "FROM jobs WHERE jobs.id = evidence.job"
        )
    )
    runs = connection.execute(sa.text("SELECT at, policy FROM runs ORDER BY first_seq")).all()
    for at, policy in runs:  # what follows a later start is overwritten by that start's turn
        for kind, checks in _worth(_decoded(policy)).items():
            connection.execute(
                sa.text("UPDATE evidence SET checks = :checks WHERE kind = :kind AND at >= :at"),
                {"checks": checks, "kind": kind, "at": at},
            )


def _worth(policy: Mapping[str, object]) -> dict[str, float]:
    known = {name: float(str(policy.get(name, default))) for name, default in _DEFAULTS.items()}
    return {
        "agreed": known["agreed_checks"],
        "audit_passed": 1.0,
        "outvoted": -known["outvoted_checks"],
    }


def _decoded(body: bytes) -> dict[str, object]:
    try:
        return msgspec.msgpack.decode(body, type=dict[str, object])
    except msgspec.MsgspecError:
        return {}


def _extend_bodies(name: str, fields: dict[str, object]) -> None:
    table = sa.table(name, sa.column("id", sa.String()), sa.column("body", sa.LargeBinary()))
    connection, last = op.get_bind(), ""
    while rows := connection.execute(
        sa.select(table).where(table.c.id > last).order_by(table.c.id).limit(_ROWS)
    ).all():
        for id_, body in _readable(rows):
            written = msgspec.msgpack.encode(body | fields)
            connection.execute(table.update().where(table.c.id == id_).values(body=written))
        last = rows[-1].id


def _readable(rows: Iterable[Any]) -> Iterable[tuple[str, dict[str, object]]]:
    """Every row with its fields. The broker leaves out and names those that cannot be read."""
    for id_, body in rows:
        if fields := _decoded(body):
            yield id_, fields
