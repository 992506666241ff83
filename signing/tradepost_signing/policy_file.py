"""The file of a trust policy, in TOML:

    deny = ["<key id or CID>"]

    [[publisher]]
    name = "alice"
    key = "alice.pub"            # a PEM file beside this one, or the PEM text itself
    key_id = "<key id>"          # optional: the key must have this id
    max_fuel = 5_000_000_000     # optional limits; see `Publisher`

No file, or an empty one, trusts nobody. Whatever is not understood is an error, and then nobody is trusted.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Final

import msgspec

from tradepost.content import parse_cid
from tradepost.errors import InvalidCid, InvalidKey, InvalidTrustPolicy
from tradepost.manifest import Positive, Provider
from tradepost_signing.keys import PublicKey
from tradepost_signing.publisher import Publisher

_FILE_BYTES_MAX: Final = 1 << 20
_KEY_ID: Final = r"^[a-z2-7]{52}\Z"
_PEM_START: Final = "-----BEGIN"

Policy = tuple[tuple[Publisher, ...], frozenset[str]]


class _PublisherTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(pattern=r'^[^\x00-\x1f\x7f"\\]{1,64}\Z')]
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    key_id: Annotated[str, msgspec.Meta(pattern=_KEY_ID)] | None = None
    max_fuel: Positive | None = None
    max_memory_bytes: Positive | None = None
    max_model_bytes: Positive | None = None
    providers: tuple[Provider, ...] | None = None


class _PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    publisher: tuple[_PublisherTable, ...] = ()
    deny: tuple[str, ...] = ()


def read_policy_file(path: Path) -> Policy:
    """The publishers and the denied key ids and CIDs in the file at `path`; none if there is no such file.

    Raises `InvalidTrustPolicy`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return (), frozenset()
    except OSError as error:
        raise InvalidTrustPolicy(f"{path}: {error.strerror}") from None
    return _parse(data, path)


def add_publisher(path: Path, publisher: Publisher) -> None:
    """Append a publisher to the policy file at `path`, made if absent; what the owner wrote stays as it is.

    Raises `InvalidTrustPolicy`, and writes nothing, if the key is there already or the file would not be
    valid with the new entry.
    """
    before = path.read_bytes() if path.exists() else b""
    _parse(before, path)
    after = (before.rstrip() + b"\n\n" + _entry(publisher).encode()).lstrip()
    _parse(after, path)
    _replace(path, after)


def _entry(publisher: Publisher) -> str:
    lines = [
        "[[publisher]]",
        f'name = "{publisher.name}"',
        f'key_id = "{publisher.key.id}"',
        f'key = """\n{publisher.key.pem.decode()}"""',
    ]
    for limit in ("max_fuel", "max_memory_bytes", "max_model_bytes", "providers"):
        value = getattr(publisher, limit)
        if value is not None:
            lines.append(f"{limit} = {json.dumps(value)}")  # integers and lists of words: TOML as they stand
    return "\n".join([*lines, ""])


def _parse(data: bytes, path: Path) -> Policy:
    if len(data) > _FILE_BYTES_MAX:
        raise InvalidTrustPolicy(f"{path} is larger than {_FILE_BYTES_MAX:,} bytes")
    try:
        file = msgspec.toml.decode(data, type=_PolicyFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidTrustPolicy(f"{path}: {error}") from None
    publishers = tuple(_publisher(table, path) for table in file.publisher)
    ids = [publisher.key.id for publisher in publishers]
    if duplicates := {key_id for key_id in ids if ids.count(key_id) > 1}:
        raise InvalidTrustPolicy(f"{path}: key {min(duplicates)} is named by more than one publisher")
    for entry in file.deny:
        _check_denied(entry, path)
    return publishers, frozenset(file.deny)


def _publisher(table: _PublisherTable, path: Path) -> Publisher:
    try:
        if table.key.lstrip().startswith(_PEM_START):
            key = PublicKey.from_pem(table.key.strip().encode())
        else:
            key = PublicKey.load(path.parent / table.key)
    except InvalidKey as error:
        raise InvalidTrustPolicy(f"{path}: publisher {table.name!r}: {error.detail}") from None
    if table.key_id not in (None, key.id):
        raise InvalidTrustPolicy(
            f"{path}: publisher {table.name!r}: the key has the id {key.id}, not {table.key_id}"
        )
    return Publisher(
        name=table.name,
        key=key,
        max_fuel=table.max_fuel,
        max_memory_bytes=table.max_memory_bytes,
        max_model_bytes=table.max_model_bytes,
        providers=table.providers,
    )


def _check_denied(entry: str, path: Path) -> None:
    if re.fullmatch(_KEY_ID, entry):
        return
    try:
        parse_cid(entry)
    except InvalidCid:
        raise InvalidTrustPolicy(f"{path}: deny: {entry!r} is neither a key id nor a CID") from None


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".trust-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
