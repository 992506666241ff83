"""No mutation of a bundle is ever accepted, but for what means nothing: see `forged_bundles`."""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import event, given, note
from hypothesis import strategies as st

from forged_bundles import KEY, OTHER, STRANGER, assert_intact, with_digest_of
from mutations import as_json, mutated, mutated_tree
from tradepost.errors import InvalidBundle, TradepostError
from tradepost_signing.bundles.bundle import join_bundles, read_bundle, sign_bytes
from tradepost_signing.checks.signature_directory import sign_directory, verify_directory
from tradepost_signing.checks.verify import verify_artifact
from tradepost_signing.keyless.identity import SigstoreIdentity, identity_of_certificate
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.testing import FakeSigstore

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number:DeprecationWarning")

ALICE = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
MALLORY = SigstoreIdentity(issuer=ALICE.issuer, subject="mallory@example.com")
SIGSTORE = FakeSigstore()
TRUST_KEY = TrustPolicy.of_key(KEY.public_key, name="alice")
TRUST_ALICE = TrustPolicy.of_identity(ALICE, trusted_root=SIGSTORE.trusted_root())

ARTIFACT, FORGERY, ANOTHER = b"an artifact", b"a forgery", b"another artifact of the same publisher"


@dataclass(frozen=True)
class Signed:
    """An artifact's bundle, bundles that are as valid for something or someone else, and the check."""

    bundle: str
    others: tuple[str, ...]
    verify: Callable[[bytes, str], object]
    intact: str = ""

    def forgeries(self, artifact: bytes) -> st.SearchStrategy[str]:
        of_bytes = mutated(self.bundle.encode(), *(other.encode() for other in self.others)).map(text)
        if self.intact:
            return of_bytes
        of_tree = mutated_tree(json.loads(self.bundle), *map(json.loads, self.others))
        return of_bytes | of_tree.map(as_json) | of_tree.map(lambda tree: with_digest_of(tree, artifact))


@functools.cache
def signed_by_key() -> Signed:
    others = (sign_bytes(FORGERY, STRANGER), sign_bytes(ANOTHER, KEY), sign_bytes(ARTIFACT, STRANGER))
    return Signed(sign_bytes(ARTIFACT, KEY), others, functools.partial(verify, TRUST_KEY))


@functools.cache
def signed_keyless() -> Signed:
    alice, mallory = SIGSTORE.signer(ALICE), SIGSTORE.signer(MALLORY)
    others = (
        sign_bytes(FORGERY, mallory),
        sign_bytes(ANOTHER, alice),
        sign_bytes(ARTIFACT, mallory),
        sign_bytes(FORGERY, FakeSigstore().signer(ALICE)),
    )
    return Signed(sign_bytes(ARTIFACT, alice), others, functools.partial(verify, TRUST_ALICE))


@functools.cache
def signed_by_several() -> Signed:
    by_key = signed_by_key()
    both = join_bundles([sign_bytes(ARTIFACT, STRANGER), by_key.bundle])
    return Signed(both, by_key.others, by_key.verify, intact=by_key.bundle)


def text(data: bytes) -> str:
    return data.decode(errors="replace")


def verify(trust: TrustPolicy, artifact: bytes, bundle: str) -> None:
    verified = verify_artifact(artifact, bundle, trust)
    assert verified.publisher.key == trust.publishers[0].key
    assert verified.sha256 == hashlib.sha256(artifact).hexdigest()


@pytest.fixture(scope="module", params=["key", "keyless", "several", "directory-key", "directory-keyless"])
def signed(request, tmp_path_factory) -> Signed:
    made = {"key": signed_by_key, "keyless": signed_keyless, "several": signed_by_several}
    if request.param in made:
        return made[request.param]()
    return signed_directory(tmp_path_factory.mktemp("models"), keyless=request.param == "directory-keyless")


def signed_directory(folder: Path, *, keyless: bool) -> Signed:
    """A model's directory, which the mutations of its bundle are checked against; and another one."""
    for name, weights in (("model", b"zero"), ("forgery", b"one")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        (folder / name / "weights").write_bytes(weights)
    publisher, stranger = (SIGSTORE.signer(ALICE), SIGSTORE.signer(MALLORY)) if keyless else (KEY, STRANGER)
    trust = TRUST_ALICE if keyless else TRUST_KEY

    def sign(name, signer):
        return sign_directory(folder / name, signer, signature=folder / name / "model.sig")

    def verify(artifact, bundle):
        name = "forgery" if artifact == FORGERY else "model"
        verify_directory(folder / name, bundle, trust, signature=folder / name / "model.sig")

    others = (sign("forgery", stranger), sign("model", stranger), sign_bytes(ARTIFACT, publisher))
    return Signed(sign("model", publisher), others, verify)


def test_the_original_bundles_are_accepted(signed):
    """Or else there is nothing in refusing what is near them."""
    signed.verify(ARTIFACT, signed.bundle)


@pytest.mark.extended
@given(artifact=st.sampled_from([ARTIFACT, FORGERY]), data=st.data())
def test_no_mutated_bundle_is_accepted(signed, artifact, data):
    """Neither over what was signed, unless it holds what was signed, nor over what was not."""
    note(signed.bundle)
    forged = data.draw(signed.forgeries(artifact))
    try:
        signed.verify(artifact, forged)
    except TradepostError as error:
        event(f"outcome: {type(error).__name__}")
    else:
        event("outcome: the same bundle")
        assert artifact == ARTIFACT
        assert_intact(forged, signed.intact or signed.bundle)


@pytest.mark.extended
@given(data=st.data())
def test_no_mutation_makes_a_stranger_trusted(data):
    forged = data.draw(signed_by_key().forgeries(ARTIFACT))
    for trust in (TrustPolicy.of_key(OTHER.public_key, name="other"), TRUST_ALICE, TrustPolicy()):
        with pytest.raises(TradepostError) as refusal:
            verify_artifact(ARTIFACT, forged, trust)
    event(f"outcome: {refusal.type.__name__}")


CERTIFICATE = read_bundle(signed_keyless().bundle).verification_material.certificate.raw_bytes


@given(mutated(CERTIFICATE))
def test_a_mutated_certificate_is_read_or_refused_with_a_typed_error(data):
    """It is read before anything is known of who made it."""
    try:
        identity_of_certificate(data)
    except InvalidBundle:
        return


def test_a_certificate_of_no_known_version_is_refused():
    version = b"\xa0\x03\x02\x01\x02"
    assert version in CERTIFICATE
    with pytest.raises(InvalidBundle):
        identity_of_certificate(CERTIFICATE.replace(version, version[:-1] + b"\x74", 1))
