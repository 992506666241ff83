"""Entries of the audit log: what is logged, and the public commitment to it that is the leaf's data.

An entry is msgpack: an array of the entry's kind and its fields. It stays with the broker. The log has only a
SHA-256 over a random nonce and the entry: who has both can recompute it, and nobody else can test a guess.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from tradepost.receipts import SignedReceipt

NONCE_BYTES: Final = 16
_DOMAIN: Final = b"tradepost/log-entry/1\n"
_encode: Final = msgspec.msgpack.Encoder().encode


def entry(kind: str, *fields: str | bytes | int | float | bool | None) -> bytes:
    """An entry's bytes. They never change once logged: a kind keeps its fields and their types for good."""
    return _encode((kind, *fields))


def receipt_entry(lease: str, receipt: SignedReceipt) -> bytes:
    """The entry of the receipt that was delivered for a lease."""
    return entry("receipt", lease, receipt.payload, receipt.public_key, receipt.signature)


def commitment(logged: bytes, nonce: bytes) -> bytes:
    """The data of an entry's leaf. `nonce` has 16 random bytes."""
    return hashlib.sha256(_DOMAIN + nonce + logged).digest()
