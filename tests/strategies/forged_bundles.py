"""Forged bundles: what a forger does first, and whether one that was accepted is the one that was signed.

A bundle is JSON, in which white space and the spelling of a string mean nothing. Nor does any signature cover
these, for which nothing is believed: the media type and the hint that says which key to look up (each has
two spellings), a log's entry and timestamps beside a key's signature, the `keyid` of an envelope's signature,
a list of no timestamps, and in a log's checkpoint the names beside its signatures and the signatures of
others. All else must be as it was signed.

Of an ECDSA signature (r, s) everybody can make (r, -s), which is as valid and as much the signer's; no edit
in `mutations` does.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from mutations import as_json
from tradepost_signing.keys import SigningKey

# Of fixed numbers, so that a failure comes back in another run: all but the signatures is the same then.
KEY, OTHER, STRANGER = (SigningKey(ec.derive_private_key(n, ec.SECP256R1())) for n in (2, 3, 5))


def assert_intact(accepted: str, original: str) -> None:
    """The bundle that was accepted, or one of several, says what the original says."""
    (wanted,) = _meanings(original)
    assert wanted in _meanings(accepted)


def with_digest_of(bundle: Any, data: bytes) -> str:
    """The bundle (JSON, or its tree), saying that it is over `data`: what a forger does first."""
    tree = json.loads(bundle) if isinstance(bundle, str) else bundle
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    match tree:
        case {"messageSignature": {"messageDigest": {"digest": _} as place}}:
            place["digest"] = digest
    return as_json(tree)


def _meanings(bundles: str) -> list[Any]:
    decoder = json.JSONDecoder(object_pairs_hook=_without_duplicates)
    meanings, rest = [], bundles.strip()
    while rest:
        tree, end = decoder.raw_decode(rest)
        meanings.append(_meaning(tree))
        rest = rest[end:].strip()
    return meanings


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two members of one name, readers take the first or the last: what was accepted has none."""
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _meaning(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of a bundle that was accepted, or that stands beside it, without what means nothing."""
    tree["mediaType"] = tree["mediaType"].replace("+json;version=0.3", ".v0.3+json")
    material = tree["verificationMaterial"]
    if "publicKey" in material:
        material = tree["verificationMaterial"] = {"publicKey": material["publicKey"]}
        if material["publicKey"].get("hint") in (KEY.public_key.hint, KEY.public_key.directory_hint):
            material["publicKey"]["hint"] = KEY.public_key.id
    if not material.get("timestampVerificationData", {}).get("rfc3161Timestamps"):
        material.pop("timestampVerificationData", None)
    for signature in tree.get("dsseEnvelope", {}).get("signatures", ()):
        signature.pop("keyid", None)
    for entry in material.get("tlogEntries", ()):
        checkpoint = entry["inclusionProof"].get("checkpoint", {"envelope": ""})
        text, _, signatures = checkpoint["envelope"].partition("\n\n")
        signed = [line.split(" ")[-1] for line in signatures.splitlines()]
        # Before a signature stand the first bytes of the log's id, of which these characters are 30 bits.
        log = entry["logId"]["keyId"][:5]
        checkpoint["envelope"] = [text, [one for one in signed if one.startswith(log)]]
    return tree
