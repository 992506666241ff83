"""The file of a trust policy, in TOML:

    deny = ["<key id or CID>"]

    [[publisher]]
    name = "alice"
    key = "alice.pub"            # a PEM file beside this one, or the PEM text itself
    key_id = "<key id>"          # optional: the key must have this id
    max_fuel = 5_000_000_000     # optional limits; see `Publisher`

    [[identity]]                 # a publisher without a key: see `keyless.identity`
    name = "acme's releases"
    issuer = "https://token.actions.githubusercontent.com"
    subject = "https://github.com/acme/models/.github/workflows/release.yml@refs/heads/main"

No file, or an empty one, trusts nobody. Whatever is not understood is an error, and then nobody is trusted.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from tradepost.atomic_files import replace_file
from tradepost.bounded import Positive
from tradepost.content import parse_cid
from tradepost.errors import UNDECODABLE, InvalidCid, InvalidKey, InvalidTrustPolicy
from tradepost.file_status import why_no_file
from tradepost.file_writing import writing_own
from tradepost.pipeline.manifest import ConditionalOperator, Provider
from tradepost.schema_errors import describe_mismatch
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.keyless.identity import Issuer, SigstoreIdentity, Subject
from tradepost_signing.keyless.root import read_trusted_root
from tradepost_signing.keys import PublicKey, PublisherId

_FILE_BYTES_MAX: Final = 1 << 20
_PUBLISHER_ID: Final = re.compile(r"[a-z2-7]{52}")
_PEM_START: Final = "-----BEGIN"
_NO_FILE: Final = (
    "Correct the link, or move away what is there; then: tradepost worker trust add NAME KEY.pub"
)

Place = Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]*\Z")]


class PublisherLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of every entry: the owner's name for the publisher, and the limits."""

    name: Annotated[str, msgspec.Meta(pattern=r'^[^\x00-\x1f\x7f"\\]{1,64}\Z')]
    max_fuel: Positive | None = None
    max_memory_bytes: Positive | None = None
    max_model_bytes: Positive | None = None
    providers: tuple[Provider, ...] | None = None
    conditional_operators: tuple[ConditionalOperator, ...] | None = None


class KeyEntry(PublisherLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A publisher that signs with a key: a PEM file beside the policy, or the PEM text itself."""

    key: Place
    key_id: PublisherId | None = None


class IdentityEntry(PublisherLimits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A publisher that signs keyless: `subject` as `issuer` names it, both exactly."""

    issuer: Issuer
    subject: Subject


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trust policy as in the file."""

    deny: tuple[str, ...] = ()
    trusted_root: Place | None = None
    publisher: tuple[KeyEntry, ...] = ()
    identity: tuple[IdentityEntry, ...] = ()


class Policy(NamedTuple):
    """A parsed policy file: trusted publishers, denied ids, and Sigstore's trusted root if it names one.

    `files` are those that say so: it, and the keys and the root that it names.
    """

    publishers: tuple[Publisher, ...] = ()
    deny: frozenset[str] = frozenset()
    trusted_root: bytes | None = None
    files: tuple[Path, ...] = ()


def read_policy_file(path: Path) -> Policy:
    """The policy in the file at `path`, which trusts nobody if there is no such file.

    Raises `InvalidTrustPolicy`.
    """
    data = _read(path)
    return Policy(files=(path,)) if data is None else _parse(data, path)


def add_publisher(path: Path, publisher: Publisher) -> None:
    """Append a publisher to the policy file at `path`, made if absent; what the owner wrote stays as it is.

    Raises `InvalidTrustPolicy`, and writes nothing, if it is there already or the file would not be valid
    with the new entry, and `FileNotWritten`.
    """
    before = _read(path) or b""
    _parse(before, path)
    after = (before.rstrip() + b"\n\n" + _entry(publisher).encode()).lstrip()
    _parse(after, path)
    with writing_own(path):
        replace_file(path, after)


def policy_schema() -> bytes:
    """The JSON Schema of the file, for editors that check TOML by one."""
    schema = json.dumps(msgspec.json.schema(PolicyFile), indent=2, sort_keys=True)
    # Python's end of a string is not known to JSON Schema, whose `$` is as strict.
    return schema.replace(r"\\Z", "$").encode() + b"\n"


def _read(path: Path) -> bytes | None:
    """What the file holds; `None` if there is none. Raises `InvalidTrustPolicy`."""
    if problem := why_no_file(path):
        raise InvalidTrustPolicy(problem, hint=_NO_FILE)
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidTrustPolicy(f"{path}: {error.strerror}") from None


def _entry(publisher: Publisher) -> str:
    key = publisher.key
    if isinstance(key, PublicKey):
        lines = ["[[publisher]]", f'name = "{publisher.name}"', f'key_id = "{key.id}"']
        lines.append(f'key = """\n{key.pem.decode()}"""')
    else:
        lines = ["[[identity]]", f'name = "{publisher.name}"']
        # A JSON string is a TOML string as well, as long as no character is split in two.
        lines += [
            f"{field} = {json.dumps(getattr(key, field), ensure_ascii=False)}"
            for field in ("issuer", "subject")
        ]
    for limit in PublisherLimits.__struct_fields__[1:]:
        value = getattr(publisher, limit)
        if value is not None:
            lines.append(f"{limit} = {json.dumps(value)}")  # integers and lists of words: TOML as they stand
    return "\n".join([*lines, ""])


def _parse(data: bytes, path: Path) -> Policy:
    if len(data) > _FILE_BYTES_MAX:
        raise InvalidTrustPolicy(f"{path} is larger than {_FILE_BYTES_MAX:,} bytes")
    try:
        file = msgspec.toml.decode(data.removeprefix(BOM_UTF8), type=PolicyFile)
    except UNDECODABLE as error:
        raise InvalidTrustPolicy(f"{path}: {describe_mismatch(error, whole='the file')}") from None
    publishers = (
        *(Publisher(key=_key(entry, path), **_limits(entry)) for entry in file.publisher),
        *(
            Publisher(key=SigstoreIdentity(issuer=entry.issuer, subject=entry.subject), **_limits(entry))
            for entry in file.identity
        ),
    )
    ids = [publisher.key.id for publisher in publishers]
    if duplicates := [publisher for publisher in publishers if ids.count(publisher.key.id) > 1]:
        raise InvalidTrustPolicy(f"{path}: {duplicates[0].key} is named by more than one publisher")
    for entry in file.deny:
        _check_denied(entry, path)
    named = [path.parent / entry.key for entry in file.publisher if not _is_pem(entry)]
    root = None
    if file.trusted_root is not None:
        named.append(path.parent / file.trusted_root)
        root = read_trusted_root(named[-1])
    return Policy(publishers, frozenset(file.deny), root, (path, *named))


def _limits(entry: PublisherLimits) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in PublisherLimits.__struct_fields__}


def _is_pem(entry: KeyEntry) -> bool:
    return entry.key.lstrip().startswith(_PEM_START)


def _key(entry: KeyEntry, path: Path) -> PublicKey:
    try:
        if _is_pem(entry):
            key = PublicKey.from_pem(entry.key.strip().encode())
        else:
            key = PublicKey.load(path.parent / entry.key)
    except InvalidKey as error:
        raise InvalidTrustPolicy(f"{path}: publisher {entry.name!r}: {error.detail}") from None
    if entry.key_id not in (None, key.id):
        raise InvalidTrustPolicy(
            f"{path}: publisher {entry.name!r}: the key has the id {key.id}, not {entry.key_id}"
        )
    return key


def _check_denied(entry: str, path: Path) -> None:
    if _PUBLISHER_ID.fullmatch(entry):
        return
    try:
        parse_cid(entry)
    except InvalidCid:
        raise InvalidTrustPolicy(f"{path}: deny: {entry!r} is neither a key id nor a CID") from None
