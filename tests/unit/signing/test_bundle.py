"""Our bundles are what cosign reads; foreign bundles are read strictly or not at all."""

import base64
import hashlib
import json
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tradepost.errors import InvalidBundle, UnsignedArtifact
from tradepost_signing.bundles.bundle import BUNDLE_BYTES_MAX, bundle_path, read_bundle, sign_bytes, sign_file
from tradepost_signing.keys import SigningKey

KEY = SigningKey.generate()
ARTIFACT = b"an artifact"


@pytest.fixture
def tree():
    return json.loads(sign_bytes(ARTIFACT, KEY))


def test_every_field_that_cosign_reads(tree):
    """`cosign verify-blob --key --bundle` decodes strictly (protojson), so there must be nothing else."""
    signature = tree["messageSignature"].pop("signature")
    assert tree == {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": base64.b64encode(hashlib.sha256(KEY.public_key.der).digest()).decode()},
            "tlogEntries": [],
        },
        "messageSignature": {
            "messageDigest": {
                "algorithm": "SHA2_256",
                "digest": base64.b64encode(hashlib.sha256(ARTIFACT).digest()).decode(),
            }
        },
    }
    public = serialization.load_pem_public_key(KEY.public_key.pem)
    public.verify(base64.b64decode(signature, validate=True), ARTIFACT, ec.ECDSA(hashes.SHA256()))


@pytest.mark.process
def test_openssl_verifies_the_signature(tree, tmp_path):
    (tmp_path / "artifact").write_bytes(ARTIFACT)
    (tmp_path / "key.pub").write_bytes(KEY.public_key.pem)
    (tmp_path / "signature").write_bytes(base64.b64decode(tree["messageSignature"]["signature"]))
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pub", "-signature", "signature", "artifact"]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not on the path")
    assert done.stdout == "Verified OK\n"


def test_a_file_is_signed_as_its_bytes_are(tmp_path):
    (tmp_path / "artifact").write_bytes(ARTIFACT)
    of_file = read_bundle(sign_file(tmp_path / "artifact", KEY)).message_signature
    of_bytes = read_bundle(sign_bytes(ARTIFACT, KEY)).message_signature
    assert of_file.message_digest == of_bytes.message_digest
    assert bundle_path(tmp_path / "model.onnx") == tmp_path / "model.onnx.sigstore.json"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_nothing_is_unsigned(text):
    with pytest.raises(UnsignedArtifact):
        read_bundle(text)


def test_what_protobuf_leaves_out_may_be_absent(tree):
    del tree["verificationMaterial"]["tlogEntries"]
    assert read_bundle(json.dumps(tree)).verification_material.tlog_entries == []


def test_the_older_name_of_version_0_3_is_read(tree):
    tree["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.3"
    read_bundle(json.dumps(tree))


def test_a_bundle_over_the_cap_is_refused_before_it_is_parsed():
    with pytest.raises(InvalidBundle, match="the limit is"):
        read_bundle("[" * (BUNDLE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("mediaType",), "application/vnd.dev.sigstore.bundle+json;version=0.1"),
        (("mediaType",), "application/vnd.dev.sigstore.bundle.v0.4+json"),
        (("mediaType",), None),
        (("unknown",), 1),
        (("verificationMaterial",), {}),
        (("verificationMaterial", "publicKey", "hint"), None),
        (("verificationMaterial", "unknown"), 1),
        (("verificationMaterial", "tlogEntries"), None),
        (("messageSignature", "unknown"), 1),
        (("messageSignature", "signature"), "not base64!"),
        (("messageSignature", "signature"), 7),
        (("messageSignature", "messageDigest", "algorithm"), "MD5"),
        (("dsseEnvelope",), {"payload": "", "payloadType": "", "signatures": []}),
    ],
)
def test_anything_unknown_is_refused(tree, path, value):
    target = tree
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    with pytest.raises(InvalidBundle):
        read_bundle(json.dumps(tree))


def test_a_second_value_for_one_name_is_refused(tree):
    text = json.dumps(tree).replace('"mediaType"', '"mediaType": "x", "mediaType"', 1)
    with pytest.raises(InvalidBundle, match="an object has a duplicate name"):
        read_bundle(text)


@pytest.mark.parametrize("text", ["null", "[]", "{", "0", '"x"', "[" * 5000, '{"mediaType": NaN}', "\ud800"])
def test_what_is_no_bundle_is_refused(text):
    with pytest.raises(InvalidBundle):
        read_bundle(text)


def test_base64_has_one_encoding(tree):
    digest = tree["messageSignature"]["messageDigest"]["digest"]
    # The last character carries two bits that decoding ignores.
    loose = next(
        other
        for other in (digest[:-2] + last + "=" for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop")
        if other != digest and base64.b64decode(other) == base64.b64decode(digest)
    )
    tree["messageSignature"]["messageDigest"]["digest"] = loose
    with pytest.raises(InvalidBundle, match="canonical"):
        read_bundle(json.dumps(tree))
