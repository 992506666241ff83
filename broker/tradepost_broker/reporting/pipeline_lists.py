"""Pages of the list of pipelines, found in the database and sorted by name."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import select

from tradepost_broker.market.model.entities import Pipeline
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Reader

_MATCHING: Final = """
    SELECT id, name FROM pipelines
    WHERE :find = '' OR instr(name, :find) OR instr(publisher, :find) OR substr(id, 1, length(:find)) = :find
"""
_PAGE: Final = f"""
    WITH matching AS ({_MATCHING})
    SELECT id FROM matching
    WHERE :after = '' OR (name, id) > (SELECT name, id FROM pipelines WHERE id = :after)
    ORDER BY name, id LIMIT :count
"""  # noqa: S608 - constant
_COUNT: Final = f"SELECT count(*) FROM ({_MATCHING})"  # noqa: S608 - constant


class PipelinePage(NamedTuple):
    """The pipelines on a page, in order, how many match in all, and the cursor of the next page."""

    pipelines: tuple[Pipeline, ...]
    found: int
    after: str


def page_of_pipelines(store: Reader, *, find: str, after: str, count: int) -> PipelinePage:
    """A page of at most `count` pipelines whose name or publisher contains `find`, or whose CID begins so."""
    asked = {"find": find, "after": after, "count": count + 1}
    ids = [row[0] for row in store.rows(_PAGE, asked)]
    [(found,)] = store.rows(_COUNT, asked)
    table = CODECS[Pipeline].table
    shown = ids[:count]
    found_there = store.find_readable(Pipeline, select(table).where(table.c.id.in_(shown)))
    known = {one.id: one for one in found_there}
    return PipelinePage(
        tuple(known[id_] for id_ in shown if id_ in known), found, shown[-1] if len(ids) > count else ""
    )
