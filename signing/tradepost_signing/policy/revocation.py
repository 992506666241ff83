"""The revocation list: what a market's operator forbids on all devices, in canonical form.

A list names publishers, artifacts, and the oldest engines that are safe to run; each entry says why. It is
a JSON document, and equal lists are equal bytes, so that a signature over the bytes is one over what they
say. Signing, and keeping the newest list, is `revocation_store`'s part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

import msgspec
from packaging.version import InvalidVersion, Version

from tradepost.bounded import CidText, Positive
from tradepost.content.ipld.cids import parse_cid
from tradepost.errors import UNDECODABLE, InvalidCid, InvalidRevocations, Revoked
from tradepost.schema_errors import describe_mismatch
from tradepost_signing.keyless.identity import Issuer, SigstoreIdentity, Subject
from tradepost_signing.keys import PublisherId

FORMAT: Final = "tradepost-revocations/1"
REVOCATIONS_BYTES_MAX: Final = 1 << 20

Reason = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{0,300}\Z")]
EngineName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]
EngineVersion = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,64}\Z")]
#: Unix seconds until the end of the year 9999, after which there are no dates to show them as.
IssuedAt = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]


class RevokedIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A keyless publisher whose signatures no longer count."""

    issuer: Issuer
    subject: Subject
    reason: Reason = ""


class RevocationDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A revocation list as in the file.

    `publishers` and `cids` give the reason by key id and by the CID of a pipeline, kernel or model; `engines`
    gives the oldest safe version by engine (`wasmtime`, `onnxruntime`). `issued_at` is in Unix seconds.
    """

    format: Literal["tradepost-revocations/1"] = FORMAT
    version: Positive
    issued_at: IssuedAt
    publishers: dict[PublisherId, Reason] = {}
    identities: tuple[RevokedIdentity, ...] = ()
    cids: dict[CidText, Reason] = {}
    engines: dict[EngineName, EngineVersion] = {}


class _WrittenList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A revocation list as the operator writes it, in TOML."""

    version: Positive
    publishers: dict[PublisherId, Reason] = {}
    identity: tuple[RevokedIdentity, ...] = ()
    cids: dict[CidText, Reason] = {}
    engines: dict[EngineName, EngineVersion] = {}


class RevocationList:
    """A parsed revocation list. Raises `InvalidRevocations` if an entry names nothing."""

    def __init__(self, document: RevocationDocument) -> None:
        self.document = document
        self.version = document.version
        self._reasons: dict[str, str] = {**document.publishers, **document.cids}
        for entry in document.identities:
            identity = SigstoreIdentity(issuer=entry.issuer, subject=entry.subject)
            self._reasons[identity.id] = entry.reason
        try:
            for cid in document.cids:
                parse_cid(cid)
            self._floors = {name: Version(text) for name, text in document.engines.items()}
        except (InvalidCid, InvalidVersion) as error:
            raise InvalidRevocations(describe_mismatch(error, whole="the list")) from None

    def refuse(self, entry: str, what: str) -> None:
        """Raise `Revoked` if `entry`, a publisher's id or a CID, is revoked; the error says `what` it is."""
        reason = self._reasons.get(entry)
        if reason is not None:
            why = reason or "no reason is given"
            raise Revoked(
                f"{what} ({entry}) is revoked by version {self.version} of the list: {why}",
                revoked=entry,
                version=self.version,
            )

    def check_pipeline(self, cid: str, artifacts: Iterable[str], publishers: Iterable[str]) -> None:
        """Raise `Revoked` if the pipeline is revoked, or an artifact in it, or everybody who signed it.

        `artifacts` are CIDs, `publishers` the ids of the keys and identities. One signature that still counts
        is enough, as it is to a trust policy.
        """
        self.refuse(cid, "the pipeline")
        for artifact in artifacts:
            self.refuse(artifact, "an artifact of the pipeline")
        signers = tuple(publishers)
        if all(signer in self._reasons for signer in signers):
            for signer in signers:
                self.refuse(signer, "its publisher")

    def below_floor(self, engines: Mapping[str, str]) -> list[str]:
        """Why these engines (version by name) are too old, a sentence each; empty if none is.

        An engine that is not reported, or whose version cannot be read, is taken to be too old.
        """
        reasons = []
        for name, floor in sorted(self._floors.items()):
            reported = engines.get(name)
            if reported is None:
                reasons.append(f"the version of {name} is not reported; {floor} or newer is required")
            elif not _is_at_least(reported, floor):
                reasons.append(f"{name} {reported[:64]} is older than {floor}")
        return reasons


def encode_revocations(document: RevocationDocument) -> bytes:
    """The one form of a list: entries sorted, one to a line, with a final newline."""
    in_order = msgspec.structs.replace(
        document, identities=tuple(sorted(document.identities, key=lambda one: (one.issuer, one.subject)))
    )
    return msgspec.json.format(msgspec.json.encode(in_order, order="deterministic"), indent=1) + b"\n"


def decode_revocations(data: bytes) -> RevocationList:
    """The list in `data`. Raises `InvalidRevocations` unless it is valid and in its one form."""
    if len(data) > REVOCATIONS_BYTES_MAX:
        raise InvalidRevocations(f"{len(data):,} bytes; the limit is {REVOCATIONS_BYTES_MAX:,}")
    try:
        document = msgspec.json.decode(data, type=RevocationDocument)
    except UNDECODABLE as error:
        raise InvalidRevocations(
            f"not a revocation list: {describe_mismatch(error, whole='the list')}"
        ) from None
    if encode_revocations(document) != data:
        raise InvalidRevocations("it is not in canonical form; `tradepost revocations sign` writes that form")
    return RevocationList(document)


def revocations_from_toml(text: str, *, issued_at: int) -> RevocationDocument:
    """The list that the operator wrote: see `docs/signing.md`. Raises `InvalidRevocations`."""
    try:
        written = msgspec.toml.decode(text.removeprefix("\ufeff"), type=_WrittenList)
    except UNDECODABLE as error:
        raise InvalidRevocations(str(error)) from None
    document = RevocationDocument(
        version=written.version,
        issued_at=issued_at,
        publishers=written.publishers,
        identities=written.identity,
        cids=written.cids,
        engines=written.engines,
    )
    # Read again, it is what everybody will hold it to.
    return decode_revocations(encode_revocations(document)).document


def _is_at_least(version: str, floor: Version) -> bool:
    try:
        return Version(version) >= floor
    except InvalidVersion:
        return False
