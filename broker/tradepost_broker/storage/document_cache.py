"""A cache of recently committed documents, which are almost always read again at once.

An input goes to each worker that gets a lease of its job, and an output to the client when the job ends. Both
are written once and never change, so what is remembered cannot be out of date.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from tradepost_broker.storage.shell_records import Delivery, InlineInput

RECENT_BYTES_MAX: Final = 32 << 20
#: What a record takes beyond its documents, roughly.
_RECORD_BYTES: Final = 1 << 10


class Recent:
    """The newest immutable documents, by kind and id, within a byte budget."""

    def __init__(self, *, bytes_max: int = RECENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._records: OrderedDict[tuple[type[Any], str], Any] = OrderedDict()

    def add(self, record: Any) -> None:
        """Remember a committed record, if it is of a kind that is."""
        size = _size(record)
        if size and (type(record), record.id) not in self._records:
            self._records[type(record), record.id] = record
            self._bytes += size
            while self._bytes > self._bytes_max:
                _, oldest = self._records.popitem(last=False)
                self._bytes -= _size(oldest)

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
