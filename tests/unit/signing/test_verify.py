"""Verification rejects whatever it was not shown to be right."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradepost.content import add_bytes
from tradepost.errors import (
    InvalidBundle,
    InvalidSignature,
    TradepostError,
    UnsignedArtifact,
    UntrustedSigner,
)
from tradepost_signing.bundles.bundle import sign_bytes, sign_statement
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.verify import verify_artifact, verify_file
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.trust import TrustPolicy

ARTIFACT = b"\x00\x01 an artifact \xff"
KEY = SigningKey.generate()
STRANGER = SigningKey.generate()
BUNDLE = sign_bytes(ARTIFACT, KEY)
TRUST = TrustPolicy.of_key(KEY.public_key, name="alice")


def test_the_publisher_and_the_hash_are_established(tmp_path):
    verified = verify_artifact(ARTIFACT, BUNDLE, TRUST)
    assert verified.publisher == Publisher(name="alice", key=KEY.public_key)
    (tmp_path / "artifact").write_bytes(ARTIFACT)
    assert verify_file(tmp_path / "artifact", BUNDLE, TRUST) == verified


def test_no_bundle_is_unsigned():
    with pytest.raises(UnsignedArtifact):
        verify_artifact(ARTIFACT, "", TRUST)


def test_nobody_is_trusted_by_an_empty_policy():
    with pytest.raises(UntrustedSigner) as caught:
        verify_artifact(ARTIFACT, BUNDLE, TrustPolicy())
    assert caught.value.facts["key_id"] == KEY.public_key.id


def test_a_stranger_is_untrusted_even_with_a_trusted_hint():
    with pytest.raises(UntrustedSigner):
        verify_artifact(ARTIFACT, sign_bytes(ARTIFACT, STRANGER), TRUST)
    forged = json.loads(sign_bytes(ARTIFACT, STRANGER))
    forged["verificationMaterial"]["publicKey"]["hint"] = KEY.public_key.hint
    with pytest.raises(InvalidSignature):
        verify_artifact(ARTIFACT, json.dumps(forged), TRUST)


def test_the_signature_over_another_artifact_is_refused():
    with pytest.raises(InvalidSignature, match="was signed"):
        verify_artifact(ARTIFACT, sign_bytes(b"another", KEY), TRUST)


def test_the_digest_in_the_bundle_must_be_the_artifacts():
    """A tool that checks the digest alone must not come to another finding than we do."""
    mixed = json.loads(BUNDLE)
    other = json.loads(sign_bytes(b"another", KEY))
    mixed["messageSignature"]["messageDigest"] = other["messageSignature"]["messageDigest"]
    with pytest.raises(InvalidSignature, match="was signed"):
        verify_artifact(ARTIFACT, json.dumps(mixed), TRUST)


@pytest.mark.parametrize("hint", ["", "x", KEY.public_key.id], ids=["empty", "noise", "key id"])
def test_a_key_that_is_not_named_is_not_guessed(hint):
    tree = json.loads(BUNDLE)
    tree["verificationMaterial"]["publicKey"]["hint"] = hint
    with pytest.raises((InvalidBundle, UntrustedSigner)):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)


def test_a_digest_must_be_given_and_sha256():
    tree = json.loads(BUNDLE)
    tree["messageSignature"]["messageDigest"]["algorithm"] = "SHA2_512"
    with pytest.raises(InvalidBundle, match="SHA-256"):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)
    del tree["messageSignature"]["messageDigest"]
    with pytest.raises(InvalidBundle, match="SHA-256"):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)


def test_a_certificate_is_no_key():
    tree = json.loads(BUNDLE)
    tree["verificationMaterial"] = {"certificate": {"rawBytes": "MAo="}, "tlogEntries": []}
    with pytest.raises(InvalidBundle, match="certificate"):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)


def test_an_envelope_is_no_message_signature():
    tree = json.loads(BUNDLE)
    del tree["messageSignature"]
    tree["dsseEnvelope"] = {"payload": "e30=", "payloadType": "x", "signatures": [{"sig": "MAo="}]}
    with pytest.raises(InvalidBundle, match="in-toto"):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)
    tree["dsseEnvelope"]["payloadType"] = "application/vnd.in-toto+json"
    with pytest.raises(InvalidBundle, match="directory"):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)


def attestation(kind="https://slsa.dev/provenance/v1", digest=None, key=KEY) -> str:
    """What `cosign attest-blob` makes: a statement about the file, signed in an envelope."""
    sha256 = digest or hashlib.sha256(ARTIFACT).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "other", "digest": {"sha256": "00" * 32}},
            {"name": "it", "digest": {"sha256": sha256}},
        ],
        "predicateType": kind,
        "predicate": {"anything": 1},
    }
    tree = json.loads(sign_statement(json.dumps(statement).encode(), key))
    tree["verificationMaterial"]["publicKey"]["hint"] = key.public_key.hint
    return json.dumps(tree)


def test_an_attestation_of_publication_is_a_signature():
    assert verify_artifact(ARTIFACT, attestation(), TRUST).publisher.key == KEY.public_key
    with pytest.raises(InvalidSignature, match="was signed"):
        verify_artifact(ARTIFACT, attestation(digest="11" * 32), TRUST)
    with pytest.raises(UntrustedSigner):
        verify_artifact(ARTIFACT, attestation(key=STRANGER), TRUST)
    forged = json.loads(attestation(key=STRANGER))
    forged["verificationMaterial"]["publicKey"]["hint"] = KEY.public_key.hint
    with pytest.raises(InvalidSignature):
        verify_artifact(ARTIFACT, json.dumps(forged), TRUST)


def test_a_statement_that_something_else_is_so_is_no_signature():
    """A person who attests that a scan found a fault in a file has not published it."""
    for kind in ("https://cosign.sigstore.dev/attestation/vuln/v1", "", "https://slsa.dev/provenance/v0.2"):
        with pytest.raises(InvalidBundle, match="not about publishing"):
            verify_artifact(ARTIFACT, attestation(kind), TRUST)
    with pytest.raises(InvalidBundle, match="not about publishing"):
        verify_artifact(ARTIFACT, attestation(digest="AB" * 32), TRUST)
    bundle = json.loads(attestation())
    bundle["dsseEnvelope"]["payload"] = "/w=="
    with pytest.raises(InvalidBundle):
        verify_artifact(ARTIFACT, json.dumps(bundle), TRUST)


def test_a_denial_wins_over_the_publishers_entry():
    for denied in (KEY.public_key.id, add_bytes(ARTIFACT, put=None)):
        trust = TrustPolicy(publishers=TRUST.publishers, deny=frozenset({denied}))
        with pytest.raises(UntrustedSigner) as caught:
            verify_artifact(ARTIFACT, BUNDLE, trust)
        assert caught.value.facts["rule"] == "deny"


@given(place=st.integers(0, len(ARTIFACT) - 1), change=st.integers(1, 255))
def test_no_changed_byte_of_the_artifact_is_accepted(place, change):
    changed = bytearray(ARTIFACT)
    changed[place] ^= change
    with pytest.raises(InvalidSignature):
        verify_artifact(bytes(changed), BUNDLE, TRUST)


def test_no_flipped_bit_of_the_bundle_is_accepted():
    for place, character in enumerate(BUNDLE):
        for bit in range(7):
            assert_refused(BUNDLE[:place] + chr(ord(character) ^ 1 << bit) + BUNDLE[place + 1 :])


def assert_refused(bundle: str) -> None:
    with pytest.raises(TradepostError):
        verify_artifact(ARTIFACT, bundle, TRUST)


@given(text=st.text(max_size=200))
def test_noise_is_refused_with_a_typed_error(text):
    assert_refused(text)
