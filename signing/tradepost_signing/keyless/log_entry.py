"""Checks of a transparency log entry that the `sigstore` package does not make.

It checks the path of hashes from the entry to the log's hash, and the log's signature over that hash. What
is beside them in the bundle must be signed as well, or be a mere label; and it has one spelling.
(Checkpoints: github.com/C2SP/C2SP, `signed-note.md` and `tlog-checkpoint.md`.)
"""

from __future__ import annotations

import base64
import re
from typing import Final

from sigstore_models.rekor.v1 import TransparencyLogEntry

from tradepost.errors import InvalidSignature

_KEY_HASH_BYTES: Final = 4
_BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_SIGNATURE_LINE: Final = re.compile(rf"\N{{EM DASH}} [^\s+]+ ({_BASE64})\n")


def check_log_entry(entry: TransparencyLogEntry) -> None:
    """Raise `InvalidSignature` unless these hold, for an entry that the `sigstore` package accepts:

    1. It has the log's promise and a time, or neither: the promise is what signs the time.
    2. Without a promise, which signs its index too, the index is the one that is proved.
    3. The checkpoint has one signature by the entry's log, and nothing but signatures below its text.
    4. The proof is for a log of the size that the checkpoint signs.
    """
    proof = entry.inclusion_proof
    # Step 1
    if (entry.inclusion_promise is None) != (not entry.integrated_time):
        raise InvalidSignature("its log entry must have both a time and the log's promise, or neither")
    # Step 2
    if entry.inclusion_promise is None and entry.log_index != proof.log_index:
        raise InvalidSignature(
            f"its log entry has the index {entry.log_index}, but its proof is for {proof.log_index}"
        )
    # Step 3
    text, _, signatures = (proof.checkpoint.envelope if proof.checkpoint else "").partition("\n\n")
    if _key_hashes(signatures).count(entry.log_id.key_id[:_KEY_HASH_BYTES]) != 1:
        raise InvalidSignature("its log's checkpoint must have exactly one signature by the log")
    # Step 4: the `sigstore` package compares the hashes alone, but which leaf a path of hashes belongs to
    # follows from the log's size (RFC 6962, section 2.1.1).
    signed = text.split("\n")[1]
    if str(proof.tree_size) != signed:
        raise InvalidSignature(
            f"the inclusion proof is for a log of {proof.tree_size} entries, but the log signed {signed}"
        )


def _key_hashes(signatures: str) -> list[bytes]:
    """The first bytes of the keys' hashes in a checkpoint's signatures, each on a line of its own."""
    return [_key_hash(line) for line in signatures.splitlines(keepends=True)]


def _key_hash(line: str) -> bytes:
    match = _SIGNATURE_LINE.fullmatch(line)
    data = base64.b64decode(match[1]) if match else b""
    # Written again, only the canonical text gives itself.
    if match is None or base64.b64encode(data).decode() != match[1]:
        raise InvalidSignature("its log's checkpoint has lines that are not signatures")
    return data[:_KEY_HASH_BYTES]
