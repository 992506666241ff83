"""Checkpoints: the size and the root of a broker's audit log, signed by the broker's identity.

A checkpoint is a C2SP tlog-checkpoint: a signed note with one ECDSA P-256 signature (type 0x02), whose key id
is the start of the public key's SHA-256. The log's origin has the form `tradepost/<domain>/1`, so the signed
text is a message in a signature domain of its own, as everything else that an identity signs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from tradepost import identity
from tradepost.audit_log.merkle import HASH_BYTES
from tradepost.errors import InvalidCheckpoint, InvalidKeptCheckpoint, TradepostError

#: A note that is longer than this is not read.
NOTE_CHARS_MAX: Final = 64 << 10
_KEY_ID_BYTES: Final = 4
_ECDSA_SHA256: Final = b"\x02"
_SIGNATURE_LINE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a broker's audit log: how many entries it has, and the root of its tree."""

    broker: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{origin_of(self.broker)}\n{self._body}"

    @property
    def _body(self) -> str:
        return f"{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def signed(self, broker: identity.Identity) -> str:
        """This checkpoint as a note signed by `broker`, whose log it is of."""
        signature = broker.sign(_domain_of(self.broker), self._body.encode())
        encoded = base64.b64encode(_key_id(broker.public_key) + signature).decode()
        return f"{self.text}\n— {origin_of(self.broker)} {encoded}\n"


def origin_of(broker: str) -> str:
    """The name of a broker's log in checkpoints, and of the key that signs them. `broker` is its key id."""
    return f"tradepost/{_domain_of(broker)}/1"


def verifier_key(public_key: bytes) -> str:
    """The key with which other people's tools verify checkpoints: `<name>+<key id>+<key>`."""
    name = origin_of(identity.key_id(public_key))
    return f"{name}+{_key_id(public_key).hex()}+{base64.b64encode(_ECDSA_SHA256 + public_key).decode()}"


def size_claimed(note: str) -> int:
    """The size that a checkpoint states, before anything is verified. Raises `InvalidCheckpoint`."""
    return _decode(note.rpartition("\n\n")[0] + "\n").size


def verify_checkpoint(note: str, public_key: bytes) -> Checkpoint:
    """The checkpoint in a note, once these steps have passed; raises `InvalidCheckpoint` at the first that
    does not.

    1. The note is a text of lines, a blank line, and signature lines.
    2. The text is a checkpoint: origin, size and root, each in its one spelling, and nothing else.
    3. The origin is that of the log of the broker with this public key (DER).
    4. A signature of that name and key id is by the public key, over the text; others are ignored.
    """
    # Step 1
    if len(note) > NOTE_CHARS_MAX:
        raise InvalidCheckpoint(f"the note has {len(note)} characters; at most {NOTE_CHARS_MAX} are read")
    text, blank, signatures = note.rpartition("\n\n")
    lines = signatures.split("\n")
    if not blank or lines.pop() or _CONTROL.search(note):
        raise InvalidCheckpoint("it is not a signed note")
    # Step 2
    checkpoint = _decode(text + "\n")
    # Step 3
    broker = identity.key_id(public_key)
    if checkpoint.broker != broker:
        raise InvalidCheckpoint(f"it is of the log of {checkpoint.broker}, not of {broker}")
    # Step 4
    tried = False
    for line in lines:
        match = _SIGNATURE_LINE.fullmatch(line)
        if match is None:
            raise InvalidCheckpoint("it is not a signed note")
        signature = _base64(match[2])
        if match[1] != origin_of(broker) or signature[:_KEY_ID_BYTES] != _key_id(public_key):
            continue
        tried = True
        try:
            identity.verify(
                public_key, _domain_of(broker), checkpoint._body.encode(), signature[_KEY_ID_BYTES:]
            )
        except TradepostError as error:
            raise InvalidCheckpoint(str(error)) from None
    if not tried:
        raise InvalidCheckpoint(f"it has no signature by {broker}")
    return checkpoint


def verify_kept_checkpoint(note: str, public_key: bytes) -> Checkpoint:
    """As `verify_checkpoint`, for one that the caller kept: raises `InvalidKeptCheckpoint`."""
    try:
        return verify_checkpoint(note, public_key)
    except InvalidCheckpoint as error:
        raise InvalidKeptCheckpoint(error.detail) from None


def _decode(text: str) -> Checkpoint:
    lines = text.split("\n")
    if len(lines) != 4:
        raise InvalidCheckpoint("its text has other lines than origin, size and root")
    origin, size, root = lines[:3]
    broker = origin.removeprefix("tradepost/log-").removesuffix("/1")
    if origin != origin_of(broker) or not broker:
        raise InvalidCheckpoint("it is not of the log of a Tradepost broker")
    if not _SIZE.fullmatch(size):
        raise InvalidCheckpoint("its size is not a number")
    checkpoint = Checkpoint(broker, int(size), _base64(root))
    if len(checkpoint.root) != HASH_BYTES or checkpoint.text != text:
        raise InvalidCheckpoint("its root is not a hash")
    return checkpoint


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidCheckpoint("it has text that is not base64") from None


def _domain_of(broker: str) -> str:
    return f"log-{broker}"


def _key_id(public_key: bytes) -> bytes:
    return hashlib.sha256(public_key).digest()[:_KEY_ID_BYTES]
