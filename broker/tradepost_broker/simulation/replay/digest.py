"""A digest of records: two markets with the same digest decided the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tradepost_broker.storage.verify_books import KINDS

Records = Mapping[type[Any], Mapping[str, Any]]

_encode: Final = msgspec.msgpack.Encoder().encode


def digest_of(records: Records) -> str:
    """The digest of every record, in an order that does not depend on when it came."""
    digest = hashlib.blake2b(digest_size=16)
    for kind in KINDS:
        for id_ in sorted(records[kind]):
            digest.update(_encode((kind.__name__, records[kind][id_])))
    return digest.hexdigest()
