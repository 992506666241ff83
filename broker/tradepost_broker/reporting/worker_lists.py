"""Pages of the list of workers: found, filtered and sorted in the database.

A cursor names the last worker of a page. The next page begins after the place that it has then.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from tradepost.errors import UNDECODABLE
from tradepost_broker.storage.store import Reader

#: What a list can be sorted by, and the expression in SQL. Equal ones are sorted by id.
SORTS: Final = {
    "earned": "-(coalesce(earned.available, 0) + coalesce(held.available, 0))",
    "device": "worker_device(workers.body)",
    "owner": "workers.owner",
    "joined": "-worker_joined_at(workers.body)",
}
#: A worker's earnings are in two accounts: matured, and on hold.
_MATCHING: Final = """
    SELECT workers.id AS id, {key} AS key FROM workers
    LEFT JOIN accounts AS earned ON earned.id = 'earned:' || workers.id
    LEFT JOIN accounts AS held ON held.id = 'held:' || workers.id
    WHERE (:standing = '' OR workers.standing = :standing)
    AND (:find = '' OR instr(worker_device(workers.body), :find) OR instr(workers.owner, :find)
         OR substr(workers.id, 1, length(:find)) = :find)
"""
_PAGE: Final = """
    WITH matching AS ({matching})
    SELECT id FROM matching
    WHERE :after = '' OR (key, id) > (SELECT key, id FROM matching WHERE id = :after)
    ORDER BY key, id LIMIT :count
"""


class WorkerPage(NamedTuple):
    """The ids of the workers on a page, in order, how many match in all, and the cursor of the next page."""

    ids: list[str]
    found: int
    after: str


class _Listed(msgspec.Struct):
    """The part of a worker's record that lists are sorted and searched by."""

    device: str = ""
    joined_at: float = 0.0


_decode: Final = msgspec.msgpack.Decoder(_Listed).decode


def page_of_workers(
    store: Reader, *, find: str, standing: str, sort: str, after: str, count: int
) -> WorkerPage:
    """A page of at most `count` workers whose device or owner contains `find`, or whose id begins with it.

    Without a `standing`, of any. `sort` is one of `SORTS`.
    """
    store.define("worker_device", _device)
    store.define("worker_joined_at", _joined_at)
    matching = _MATCHING.format(key=SORTS[sort])
    asked: dict[str, Any] = {
        "standing": standing,
        "find": find.casefold(),
        "after": after,
        "count": count + 1,
    }
    ids = [row[0] for row in store.rows(_PAGE.format(matching=matching), asked)]
    [(found,)] = store.rows(f"SELECT count(*) FROM ({matching})", asked)  # noqa: S608 - one of `SORTS`
    return WorkerPage(ids[:count], found, ids[count - 1] if len(ids) > count else "")


def _device(body: bytes) -> str:
    return _listed(body).device.casefold()


def _joined_at(body: bytes) -> float:
    return _listed(body).joined_at


def _listed(body: bytes) -> _Listed:
    try:
        return _decode(body)
    except UNDECODABLE:  # it is left out where its record is read
        return _Listed()
