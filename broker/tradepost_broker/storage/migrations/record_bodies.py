"""New fields in the bodies of stored records, written by migrations, which know no record classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import sqlalchemy as sa
from alembic import op

_ROWS: Final = 1000


def add_fields(table: str, fields: Mapping[str, object]) -> None:
    """Write `fields` into the body of every row of `table` that can be read.

    The broker leaves out and names the others.
    """
    rows_of = sa.table(table, sa.column("id", sa.String()), sa.column("body", sa.LargeBinary()))
    connection, last = op.get_bind(), ""
    while rows := connection.execute(
        sa.select(rows_of).where(rows_of.c.id > last).order_by(rows_of.c.id).limit(_ROWS)
    ).all():
        for id_, body in rows:
            try:
                known = msgspec.msgpack.decode(body, type=dict)
            except msgspec.MsgspecError:
                continue
            written = msgspec.msgpack.encode(known | dict(fields))
            connection.execute(rows_of.update().where(rows_of.c.id == id_).values(body=written))
        last = rows[-1].id
