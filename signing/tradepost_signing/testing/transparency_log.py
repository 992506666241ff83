"""A transparency log as Rekor runs one: a Merkle tree (RFC 6962) whose head is signed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_ORIGIN: Final = "rekor.example - 1"


class TransparencyLog:
    """Keeps entries in memory, and answers as Rekor's API (version 1) does when one is added."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        # A tree of one leaf has a proof of no hashes, which would prove little in a test.
        self._leaves = [leaf_hash(b"one"), leaf_hash(b"two")]

    @property
    def public_key(self) -> bytes:
        """The log's key (DER)."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def id(self) -> bytes:
        """The log's id: the SHA-256 of its key."""
        return hashlib.sha256(self.public_key).digest()

    def add(self, body: bytes, *, at: int) -> dict[str, Any]:
        """Rekor's answer to a new entry with this canonical body, added at this time (Unix seconds)."""
        self._leaves.append(leaf_hash(body))
        index, root = len(self._leaves) - 1, tree_hash(self._leaves)
        entry = {
            "body": base64.b64encode(body).decode(),
            "integratedTime": at,
            "logID": self.id.hex(),
            "logIndex": index,
        }
        promised = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        proof = {
            "logIndex": index,
            "treeSize": len(self._leaves),
            "rootHash": root.hex(),
            "hashes": [one.hex() for one in inclusion_path(index, self._leaves)],
            "checkpoint": self._checkpoint(root),
        }
        promise = base64.b64encode(self._sign(promised)).decode()
        return {"uuid": entry | {"verification": {"signedEntryTimestamp": promise, "inclusionProof": proof}}}

    def _checkpoint(self, root: bytes) -> str:
        note = f"{_ORIGIN}\n{len(self._leaves)}\n{base64.b64encode(root).decode()}\n"
        signature = base64.b64encode(self.id[:4] + self._sign(note.encode())).decode()
        return f"{note}\n\N{EM DASH} rekor.example {signature}\n"

    def _sign(self, data: bytes) -> bytes:
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + entry).digest()


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """The hash of the tree with these leaves' hashes."""
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return hashlib.sha256(b"\1" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def inclusion_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """The hashes that lead from the leaf at `index` to the tree's hash, lowest first."""
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_path(index, leaves[:split]), tree_hash(leaves[split:])]
    return [*inclusion_path(index - split, leaves[split:]), tree_hash(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)
