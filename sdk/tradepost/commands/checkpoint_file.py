"""Reads a checkpoint of an audit log that somebody kept: as a signed note, or in a proof."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tradepost.audit_log.checkpoint import size_claimed
from tradepost.audit_log.proofs import LogProof
from tradepost.errors import UNDECODABLE, InvalidCheckpoint, InvalidKeptCheckpoint
from tradepost.schema_errors import describe_mismatch


def read_checkpoint(file: Path) -> str:
    """The checkpoint, a signed note, in a file that holds it, or a proof with it.

    Raises `InvalidKeptCheckpoint` if there is none. The signature is not verified.
    """
    try:
        data = file.read_bytes()
    except OSError as problem:
        raise InvalidKeptCheckpoint(f"{file}: {problem.strerror}") from None
    try:
        note = msgspec.json.decode(data, type=LogProof).checkpoint if data.startswith(b"{") else data.decode()
        size_claimed(note)
    except UNDECODABLE as problem:
        raise InvalidKeptCheckpoint(f"{file}: {describe_mismatch(problem, whole='the file')}") from None
    except InvalidCheckpoint as problem:
        raise InvalidKeptCheckpoint(f"{file}: {problem}") from None
    return note
