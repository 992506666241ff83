"""Content identifiers: CIDv1 with sha2-256, as IPFS computes them.

Three codecs are in use: `raw` (leaves and single-block artifacts), `dag-pb` (UnixFS files over one block)
and `dag-cbor` (manifests). Every accepted CID is therefore exactly 36 bytes, `01 codec 12 20 digest`, written
in lower-case base32 with the multibase prefix `b`; anything else is refused, identity hashes among them:
an identity CID carries its bytes inside itself, so there would be nothing to verify.

A CID is a string here, in that one canonical form. Making a library object of each costs 100 to 270 µs,
more than everything else that the broker does for a job. (Spec: github.com/multiformats/cid, "CIDv1".)
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, NewType

from tradepost.errors import ContentMismatch, ContentTooLarge, InvalidCid, UploadMismatch

Cid = NewType("Cid", str)
Codec = Literal["raw", "dag-pb", "dag-cbor"]

#: A block larger than this is refused everywhere; IPFS exchanges no larger ones either.
BLOCK_BYTES_MAX: Final = 2 << 20

_CODES: Final[dict[Codec, int]] = {"raw": 0x55, "dag-pb": 0x70, "dag-cbor": 0x71}
_CODECS: Final = {code: codec for codec, code in _CODES.items()}
_PREFIXES: Final = {codec: bytes((1, code, 0x12, 0x20)) for codec, code in _CODES.items()}
_BYTES: Final = 36
_CHARS: Final = 59
_SHOWN_CHARS_MAX: Final = 80
_FORM: Final = re.compile(r"b[a-z2-7]{58}")
#: A CIDv0 is a bare sha2-256 multihash: in binary it begins so, in base58 it looks so.
_V0_PREFIX: Final = b"\x12\x20"
_V0_FORM: Final = re.compile(r"Qm[1-9A-HJ-NP-Za-km-z]{44}")
_V0_HINT: Final = (
    "Make the content anew with CIDs of version 1: `ipfs add --cid-version=1`, then export that."
)
#: From the alphabet of RFC 4648 to that of `int(…, 32)`, which reads 58 digits six times as fast as `base64`.
_DIGITS: Final = str.maketrans("abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv")


def cid_of_digest(digest: bytes, codec: Codec) -> Cid:
    """The CID with a given sha2-256 digest of 32 bytes."""
    return Cid("b" + base64.b32encode(_PREFIXES[codec] + digest).decode().rstrip("=").lower())


def cid_of_block(data: bytes | memoryview, codec: Codec) -> Cid:
    """The CID of one block. Raises `ContentTooLarge` beyond `BLOCK_BYTES_MAX`."""
    if len(data) > BLOCK_BYTES_MAX:
        raise ContentTooLarge(f"a block of {len(data):,} bytes; the limit is {BLOCK_BYTES_MAX:,}")
    return cid_of_digest(hashlib.sha256(data).digest(), codec)


def cid_to_bytes(text: str) -> bytes:
    """The 36 binary bytes of a CID. Raises `InvalidCid` unless it is canonical, as this module describes."""
    if _FORM.fullmatch(text) is None:
        if _V0_FORM.fullmatch(text):
            raise InvalidCid(f"{text!r} is a CIDv0", hint=_V0_HINT)
        shown = repr(text) if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]!r}…"
        raise InvalidCid(f"{shown} is not a CIDv1 in lower-case base32 ({_CHARS} characters)")
    value = int(text[1:].translate(_DIGITS), 32)
    if value & 3:  # 58 digits have two bits more than 36 bytes
        raise InvalidCid(f"{text!r} is not canonical base32")
    data = (value >> 2).to_bytes(_BYTES, "big")
    if data[1] not in _CODECS or data[:4] != _PREFIXES[_CODECS[data[1]]]:
        raise InvalidCid(f"{text!r}: not CIDv1 of raw, dag-pb or dag-cbor with sha2-256")
    return data


def parse_cid(text: str) -> Cid:
    """`text` as a CID. Raises `InvalidCid`."""
    cid_to_bytes(text)
    return Cid(text)


def parse_cid_argument(text: str) -> Cid:
    """A CID that a person passed, without blanks around it. Raises `InvalidCid`.

    A file's line and a shell's variable end with a newline. In messages and documents a CID is exact.
    """
    return parse_cid(text.strip())


def cid_from_bytes(data: bytes) -> Cid:
    """The CID in 36 binary bytes. Raises `InvalidCid`."""
    if len(data) != _BYTES or data[1] not in _CODECS or data[:4] != _PREFIXES[_CODECS[data[1]]]:
        if data[:2] == _V0_PREFIX:
            raise InvalidCid(f"{data[:34].hex()} is a CIDv0", hint=_V0_HINT)
        raise InvalidCid(f"{data[:40].hex()}: not CIDv1 of raw, dag-pb or dag-cbor with sha2-256")
    return cid_of_digest(data[4:], _CODECS[data[1]])


def codec_of(cid: str) -> Codec:
    """The codec of a CID. Raises `InvalidCid`."""
    return _CODECS[cid_to_bytes(cid)[1]]


def verify_block(cid: str, data: bytes | memoryview, *, source: str) -> None:
    """Raise `ContentMismatch`, naming `source`, unless `data` hashes to `cid`."""
    if len(data) > BLOCK_BYTES_MAX:
        raise ContentTooLarge(f"{source} sent {len(data):,} bytes; a block has at most {BLOCK_BYTES_MAX:,}")
    if hashlib.sha256(data).digest() != cid_to_bytes(cid)[4:]:
        raise ContentMismatch(f"{source} sent bytes that do not match {cid}", source=source, cid=cid)


def verify_upload(cid: str, data: bytes | memoryview) -> None:
    """Raise `UploadMismatch` unless `data`, which a request brings, hashes to `cid`."""
    with upload_mismatches():
        verify_block(cid, data, source="the request")


@contextmanager
def upload_mismatches() -> Iterator[None]:
    """Turn `ContentMismatch` into `UploadMismatch`: the sender of a request is at fault."""
    try:
        yield
    except ContentMismatch as error:
        raise UploadMismatch(error.detail, **error.facts) from None
