"""What a trustless gateway decides about a request, without any I/O: what is asked for, and how it is
labelled.

    GET|HEAD /ipfs/{cid}[/path]?format=raw|car&dag-scope=block|entity|all&entity-bytes=from:to

The server reads the request (`read_request`), finds the block or the CAR (`paths.resolve`,
`export.export_car`) and answers with `headers`. Content has an address that changes with it, so every answer
may be kept for ever. (Spec: specs.ipfs.tech/http-gateways/trustless-gateway.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args
from urllib.parse import quote

from multiformats import CID

from tradepost.content.ipld.cids import Cid
from tradepost.content.transfer.export import EntityBytes, Scope
from tradepost.content.unixfs.paths import split_path
from tradepost.errors import InvalidCid, InvalidRequest, NotAcceptable, RangeNotSatisfiable, UnknownCid

Format = Literal["raw", "car"]

#: The identity CID of no bytes, by which clients try whether a gateway is one.
PROBE: Final = "bafkqaaa"
_PROBE_CAR: Final = bytes.fromhex("19 a2 65726f6f7473 81 d82a450001550000 6776657273696f6e01 04 01550000")
#: Longer text is no CID that anybody uses; reading base58 takes the square of its length.
_FOREIGN_CID_CHARS_MAX: Final = 200

RAW_TYPE: Final = "application/vnd.ipld.raw"
CAR_TYPE: Final = "application/vnd.ipld.car"
#: The CARs made here: parents before children, no block twice.
CAR_CONTENT_TYPE: Final = f"{CAR_TYPE}; version=1; order=dfs; dups=n"

_KEEP_FOR_EVER: Final = "public, max-age=29030400, immutable"
_ENTITY_BYTES: Final = re.compile(r"(-?[0-9]{1,16}):(-?[0-9]{1,16}|\*)")
_QUALITY: Final = re.compile(r"[01](\.[0-9]{0,3})?")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,16})-([0-9]{0,16})")
#: What a request may say of the CAR that it wants, in `Accept` or in the query, and what is made here.
_CAR_OPTIONS: Final = {"version": ("1",), "order": ("dfs", "unk", ""), "dups": ("n", "")}


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """A request for a block or a CAR at a path below a root."""

    root: Cid
    segments: tuple[str, ...]
    format: Format
    scope: Scope = "all"
    entity_bytes: EntityBytes | None = None

    def etag(self, end: Cid) -> str:
        """The entity tag of the answer; `end` is the CID at the end of the path."""
        if self.format == "raw":
            return f'"{end}.raw"'
        asked = repr((self.root, self.segments, self.scope, self.entity_bytes))
        return f'W/"{end}.car.{hashlib.sha256(asked.encode()).hexdigest()[:16]}"'

    def headers(self, end: Cid) -> dict[str, str]:
        """The headers of the answer, whether it is the content, a HEAD, or `304 Not Modified`."""
        raw = self.format == "raw"
        # Names are a stranger's, and a header is no place for line breaks.
        path = "/".join(("/ipfs", self.root, *(quote(name, safe="") for name in self.segments)))
        return {
            "Content-Type": RAW_TYPE if raw else CAR_CONTENT_TYPE,
            "Content-Disposition": f'attachment; filename="{end}.{"bin" if raw else "car"}"',
            "ETag": self.etag(end),
            "Cache-Control": _KEEP_FOR_EVER,
            "Accept-Ranges": "bytes" if raw else "none",
            "Vary": "Accept",
            "X-Content-Type-Options": "nosniff",
            "X-Ipfs-Path": path,
        }


def read_request(path: str, query: Mapping[str, str], accept: str) -> GatewayRequest:
    """The request for `path` (what follows `/ipfs/`, percent-decoded) with its query and `Accept` header.

    Raises `InvalidCid`, `UnknownCid` for a CID of another kind than those here, `UnknownPath`,
    `InvalidRequest`, or `NotAcceptable` for any other format.
    """
    try:
        root, segments = split_path(path)
    except InvalidCid:
        _refuse_foreign_cid(path.split("/", maxsplit=1)[0])
        raise
    format_ = _format(query, accept)
    scope = _scope(query.get("dag-scope", "all"))
    if "entity-bytes" not in query:
        return GatewayRequest(root, segments, format_, scope)
    return GatewayRequest(root, segments, format_, "entity", _entity_bytes(query["entity-bytes"]))


def read_probe(path: str, query: Mapping[str, str], accept: str) -> tuple[bytes, dict[str, str]] | None:
    """The body and the headers of the answer to the probe; `None` if the request is for something else.

    Raises `InvalidRequest` or `NotAcceptable`, as `read_request` does.
    """
    if path.strip("/") != PROBE:
        return None
    asked = GatewayRequest(Cid(PROBE), (), _format(query, accept))
    return b"" if asked.format == "raw" else _PROBE_CAR, asked.headers(asked.root)


def only_if_cached(headers: Mapping[str, str]) -> bool:
    """Whether only what the gateway holds already is asked for; `412`, without a body, if it does not."""
    asked = headers.get("Cache-Control", "").lower().split(",")
    return "only-if-cached" in (directive.strip() for directive in asked)


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether the client that asks with this `If-None-Match` has the answer already."""
    if if_none_match is None:
        return False
    known = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in known or etag.removeprefix("W/") in known


def wanted_range(method: str, headers: Mapping[str, str], etag: str, size: int) -> range | None:
    """The offsets that a request for a block of `size` bytes asks for; `None` for all of it.

    Raises `RangeNotSatisfiable`.
    """
    # RFC 9110: ranges are for GET alone (14.2), and for what `If-Range` names, if it is there (13.1.5).
    if method != "GET" or headers.get("If-Range", etag) != etag:
        return None
    return read_range(headers.get("Range"), size)


def read_range(header: str | None, size: int) -> range | None:
    """The offsets that a `Range` header asks of a block; `None` for all of it, as for any header not
    understood.

    Raises `RangeNotSatisfiable`.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        wanted = range(max(0, size - int(last)), size)
    else:
        wanted = range(int(first), min(int(last) + 1, size) if last else size)
    if not wanted:
        raise RangeNotSatisfiable(f"{header} of {size:,} bytes", size=size)
    return wanted


def _refuse_foreign_cid(text: str) -> None:
    """Raise `UnknownCid` if the text is a CID: it names something, though nothing that is here."""
    if len(text) > _FOREIGN_CID_CHARS_MAX:
        return
    try:
        CID.decode(text)
    except Exception:  # the library has many, without a base class of their own
        return
    raise UnknownCid(
        f"{text} is a CID, but this gateway has only CIDv1 with sha2-256, in lower-case base32", cid=text
    )


def _format(query: Mapping[str, str], accept: str) -> Format:
    asked = query.get("format")
    in_query = {name: query[f"car-{name}"] for name in _CAR_OPTIONS if f"car-{name}" in query}
    if asked is None and not accept:
        raise InvalidRequest(
            "the request has neither format nor Accept", hint="Add ?format=raw or ?format=car."
        )
    wanted = _accepted(accept) if asked is None else [(f"application/vnd.ipld.{asked}", {})]
    for kind, options in wanted:
        if kind == RAW_TYPE:
            return "raw"
        if kind == CAR_TYPE and _is_made_here(options | in_query):
            return "car"
    said = f"Accept: {accept}" if asked is None else f"format={asked!r} {in_query or ''}"
    raise NotAcceptable(said[:200])


def _is_made_here(options: Mapping[str, str]) -> bool:
    return all(options.get(name, values[0]) in values for name, values in _CAR_OPTIONS.items())


def _scope(asked: str) -> Scope:
    for scope in get_args(Scope):
        if asked == scope:
            return cast(Scope, scope)
    raise InvalidRequest(f"dag-scope={asked[:40]!r}: it is block, entity or all")


def _accepted(accept: str) -> list[tuple[str, dict[str, str]]]:
    """The media types in an `Accept` header with their parameters, the best liked first."""
    found: list[tuple[float, str, dict[str, str]]] = []
    for part in accept.split(","):
        kind, *pieces = (piece.strip() for piece in part.split(";"))
        pairs = (piece.partition("=") for piece in pieces)
        options = {key.strip().lower(): value.strip() for key, _, value in pairs}
        liked = _QUALITY.fullmatch(options.pop("q", "1"))
        if liked is not None and float(liked[0]) > 0:
            found.append((float(liked[0]), kind.lower(), options))
    return [(kind, options) for _, kind, options in sorted(found, key=lambda one: -one[0])]


def _entity_bytes(text: str) -> EntityBytes:
    match = _ENTITY_BYTES.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"entity-bytes={text[:40]!r}: it is from:to")
    first, last = match.groups()
    return EntityBytes(int(first), None if last == "*" else int(last))
