"""No mutation of a bundle, a manifest, a policy or a revocation list is ever accepted.

A bundle is JSON, in which white space and the spelling of a string mean nothing, so there the claim is
exactly: what is accepted still holds the signed bundle, unchanged. In a keyless one the log's checkpoint
ends with names that no signature covers and nobody believes; they are left out of the comparison.
"""

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradepost.content import cid_of_block
from tradepost.errors import (
    InvalidBundle,
    InvalidPipeline,
    InvalidRevocations,
    InvalidTrustPolicy,
    TradepostError,
)
from tradepost.manifest import KernelStage, Manifest, ModelStage, TensorSpec, decode_manifest, encode_manifest
from tradepost_signing.bundle import join_bundles, read_bundle, sign_bytes
from tradepost_signing.directory import sign_directory, verify_directory
from tradepost_signing.keys import SigningKey
from tradepost_signing.revocation import RevocationDocument
from tradepost_signing.revocation_store import (
    RevocationStore,
    SignedRevocations,
    sign_revocations,
    verify_revocations,
)
from tradepost_signing.sigstore_identity import SigstoreIdentity, identity_of_certificate
from tradepost_signing.testing import FakeSigstore
from tradepost_signing.trust import TrustPolicy
from tradepost_signing.verify import verify_artifact

ARTIFACT = b"an artifact"
KEY, OTHER, STRANGER = (SigningKey.generate() for _ in range(3))
ALICE = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
SIGSTORE = FakeSigstore()
TRUST_KEY = TrustPolicy.of_key(KEY.public_key, name="alice")
TRUST_ALICE = TrustPolicy.of_identity(ALICE, trusted_root=SIGSTORE.trusted_root())
BY_KEY = sign_bytes(ARTIFACT, KEY)
KEYLESS = sign_bytes(ARTIFACT, SIGSTORE.signer(ALICE))
STAGES = (
    KernelStage(name="prepare", artifact=cid_of_block(b"k", "raw"), inputs={"x": "input.x"}, outputs=("y",)),
    ModelStage(name="model", artifact=cid_of_block(b"m", "raw"), inputs={"y": "prepare.y"}, outputs=("z",)),
)
BLOCK = encode_manifest(
    Manifest(
        name="digits",
        version="1",
        inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
        stages=STAGES,
        outputs={"z": "model.z"},
    )
)
BLOCK_BUNDLE = sign_bytes(BLOCK, KEY)
REVOCATIONS = sign_revocations(
    RevocationDocument(
        version=12,
        issued_at=1_700_000_000,
        publishers={OTHER.public_key.id: "stolen"},
        cids={cid_of_block(b"k", "raw"): "crashes"},
        engines={"wasmtime": "50.0.1"},
    ),
    KEY,
)

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number:DeprecationWarning")
fixture_is_only_read = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def mutations(draw, original: bytes) -> bytes:
    """`original` after one to three edits, of which some undo each other."""
    data = original
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40) | st.integers(0, 4)))
        part = data[start:end]
        other = draw(st.integers(0, len(data)))
        edited = draw(
            st.sampled_from(["replace", "insert", "delete", "repeat", "copy", "flip", "truncate", "digit"])
        )
        if edited == "replace":
            data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
        elif edited == "insert":
            data = data[:start] + draw(st.binary(min_size=1, max_size=8)) + data[start:]
        elif edited == "delete":
            data = data[:start] + data[end:]
        elif edited == "repeat":
            data = data[:end] + part + data[end:]
        elif edited == "copy":
            data = data[:other] + part + data[other:]
        elif edited == "flip" and part:
            data = data[:start] + bytes([part[0] ^ 1 << draw(st.integers(0, 7))]) + data[start + 1 :]
        elif edited == "truncate":
            data = data[:start]
        elif edited == "digit" and part:
            data = data[:start] + draw(st.sampled_from([b"0", b"A", b"z", b"=", b'"'])) + data[start + 1 :]
    return data


def text(data: bytes) -> str:
    return data.decode(errors="replace")


def trees_in(bundles: str) -> list:
    """The JSON values in a text, without what nothing covers."""
    decoder, trees, rest = json.JSONDecoder(), [], bundles.strip()
    while rest:
        tree, end = decoder.raw_decode(rest)
        for entry in tree["verificationMaterial"].setdefault("tlogEntries", []):
            checkpoint = entry["inclusionProof"]["checkpoint"]
            checkpoint["envelope"] = checkpoint["envelope"].partition("\n\n")[0]
        trees.append(tree)
        rest = rest[end:].strip()
    return trees


def assert_intact(accepted: str, original: str) -> None:
    (wanted,) = trees_in(original)
    assert wanted in trees_in(accepted)


@given(mutations(BY_KEY.encode()))
def test_no_mutated_bundle_of_a_key_is_accepted(data):
    try:
        verified = verify_artifact(ARTIFACT, text(data), TRUST_KEY)
    except TradepostError:
        return
    assert_intact(text(data), BY_KEY)
    assert (verified.publisher.key, verified.sha256) == (
        KEY.public_key,
        hashlib.sha256(ARTIFACT).hexdigest(),
    )


@given(mutations(KEYLESS.encode()))
def test_no_mutated_keyless_bundle_is_accepted(data):
    try:
        verified = verify_artifact(ARTIFACT, text(data), TRUST_ALICE)
    except TradepostError:
        return
    assert_intact(text(data), KEYLESS)
    assert verified.publisher.key == ALICE


@given(mutations(join_bundles([sign_bytes(ARTIFACT, STRANGER), BY_KEY]).encode()))
def test_no_mutation_of_several_bundles_is_accepted(data):
    try:
        verify_artifact(ARTIFACT, text(data), TRUST_KEY)
    except TradepostError:
        return
    assert_intact(text(data), BY_KEY)


@given(mutations(BY_KEY.encode()))
def test_no_mutation_makes_a_stranger_trusted(data):
    for trust in (TrustPolicy.of_key(STRANGER.public_key, name="s"), TRUST_ALICE, TrustPolicy()):
        with pytest.raises(TradepostError):
            verify_artifact(ARTIFACT, text(data), trust)


CERTIFICATE = read_bundle(KEYLESS).verification_material.certificate.raw_bytes


@given(mutations(CERTIFICATE))
def test_a_mutated_certificate_is_read_or_refused_with_a_typed_error(data):
    """It is read before anything is known of who made it."""
    try:
        identity_of_certificate(data)
    except InvalidBundle:
        assert data != CERTIFICATE


def test_a_certificate_of_no_known_version_is_refused():
    version = b"\xa0\x03\x02\x01\x02"
    assert version in CERTIFICATE
    with pytest.raises(InvalidBundle):
        identity_of_certificate(CERTIFICATE.replace(version, version[:-1] + b"\x74", 1))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(b"zero")
    return folder


@pytest.fixture(scope="module", params=["key", "keyless"])
def signature(directory, request) -> tuple[str, TrustPolicy]:
    signer, trust = (KEY, TRUST_KEY) if request.param == "key" else (SIGSTORE.signer(ALICE), TRUST_ALICE)
    return sign_directory(directory, signer, signature=directory / "model.sig"), trust


@given(data=st.data())
def test_no_mutated_bundle_of_a_directory_is_accepted(directory, signature, data):
    original, trust = signature
    mutated = text(data.draw(mutations(original.encode())))
    try:
        verify_directory(directory, mutated, trust, signature=directory / "model.sig")
    except TradepostError:
        return
    assert_intact(mutated, original)


@given(mutations(BLOCK))
def test_no_mutated_manifest_is_accepted(data):
    try:
        manifest = decode_manifest(data)
    except InvalidPipeline:
        return
    if data == BLOCK:
        TRUST_KEY.check_pipeline(manifest, data, BLOCK_BUNDLE)
        return
    with pytest.raises(TradepostError):
        TRUST_KEY.check_pipeline(manifest, data, BLOCK_BUNDLE)
    with pytest.raises(TradepostError):
        TRUST_KEY.check_pipeline(manifest, BLOCK, BLOCK_BUNDLE)


POLICY = (
    f'deny = []\ntrusted_root = "root.json"\n[[publisher]]\nname = "alice"\nkey_id = "{KEY.public_key.id}"\n'
    f'key = """\n{KEY.public_key.pem.decode()}"""\nmax_fuel = 2_000_000_000\n'
    f'[[identity]]\nname = "robot"\nissuer = "{ALICE.issuer}"\nsubject = "{ALICE.subject}"\n'
)
STRANGE = [
    sign_bytes(BLOCK, STRANGER),
    sign_bytes(BLOCK, SIGSTORE.signer(SigstoreIdentity(issuer=ALICE.issuer, subject="mallory@example.com"))),
    sign_bytes(BLOCK, FakeSigstore().signer(ALICE)),
]
MANIFEST = decode_manifest(BLOCK)


@fixture_is_only_read
@given(data=mutations(POLICY.encode()))
def test_no_mutated_policy_trusts_a_stranger(tmp_path, data):
    """A policy is the owner's own file: nothing signs it. But by no accident does it trust somebody else."""
    (tmp_path / "root.json").write_bytes(SIGSTORE.trusted_root())
    (tmp_path / "trust.toml").write_bytes(data)
    try:
        trust = TrustPolicy.load(tmp_path / "trust.toml")
    except InvalidTrustPolicy:
        return
    for publisher in trust.publishers:
        if not isinstance(publisher.key, SigstoreIdentity):
            assert publisher.key == KEY.public_key
    for bundle in STRANGE:
        with pytest.raises(TradepostError):
            trust.check_pipeline(MANIFEST, BLOCK, bundle)


@given(mutations(REVOCATIONS.document))
def test_no_mutated_revocation_list_is_accepted(data):
    if data != REVOCATIONS.document:
        with pytest.raises(TradepostError):
            verify_revocations(SignedRevocations(data, REVOCATIONS.bundle), KEY.public_key)


@given(mutations(REVOCATIONS.bundle.encode()))
def test_no_mutated_bundle_of_a_revocation_list_is_accepted(data):
    try:
        verify_revocations(SignedRevocations(REVOCATIONS.document, text(data)), KEY.public_key)
    except TradepostError:
        return
    assert_intact(text(data), REVOCATIONS.bundle)


@fixture_is_only_read
@given(data=st.data())
def test_no_mutated_store_revokes_less(tmp_path, data):
    path = tmp_path / "revocations"
    path.unlink(missing_ok=True)
    RevocationStore(path, KEY.public_key).accept(REVOCATIONS)
    path.write_bytes(data.draw(mutations(path.read_bytes())))
    try:
        store = RevocationStore(path, KEY.public_key)
    except InvalidRevocations:
        return
    assert store.current.document == verify_revocations(REVOCATIONS, KEY.public_key).document
