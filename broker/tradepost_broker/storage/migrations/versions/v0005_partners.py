"""Evidence says for whom it counts, leases how they were drawn and priced, pipelines who claims which key."""

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa
from alembic import op

from tradepost_broker.storage.migrations.record_bodies import add_fields

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

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
        add_fields(name, fields)
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
