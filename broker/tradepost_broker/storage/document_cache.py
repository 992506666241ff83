"""A cache of recently committed documents, which are almost always read again at once.

An input goes to each worker that gets a lease of its job, and an output to the client when the job ends. Both
are written once and never change, so what is remembered cannot be out of date.
"""

from __future__ import annotations

from typing import Any, Final

from cachetools import FIFOCache

from tradepost_broker.storage.shell_records import Delivery, InlineInput

CACHE_BYTES_MAX: Final = 32 << 20
#: What a record takes beyond its documents, roughly.
_RECORD_BYTES: Final = 1 << 10


class DocumentCache:
    """The newest immutable documents, by kind and id, within a byte budget."""

    def __init__(self, *, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._records: FIFOCache[tuple[type[Any], str], Any] = FIFOCache(bytes_max, getsizeof=_size)

    def add(self, record: Any) -> None:
        """Remember a committed record, if it is of a kind that is."""
        key = type(record), record.id
        if key not in self._records and 0 < _size(record) <= self._records.maxsize:
            self._records[key] = record

    def get(self, kind: type[Any], id_: str) -> Any | None:
        """The record, if it is remembered."""
        return self._records.get((kind, id_))


def _size(record: Any) -> int:
    match record:
        case InlineInput(document=document):
            return len(document) + _RECORD_BYTES
        case Delivery(payload=payload, output=output):
            return len(payload) + len(output or b"") + _RECORD_BYTES
        case _:
            return 0
