"""Keyless signatures, made with a whole Sigstore in memory; the real `sigstore` package signs and checks."""

import hashlib
import json
import socket
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.errors import (
    ExpiredSignature,
    IdentityRefused,
    InvalidBundle,
    InvalidSignature,
    SigstoreUnavailable,
    UntrustedSigner,
)
from tradepost_signing.bundles.bundle import MEDIA_TYPE, read_bundle, sign_bytes, sign_file
from tradepost_signing.checks.signature_directory import sign_directory, verify_directory
from tradepost_signing.checks.verify import claimed_publishers, verify_artifact
from tradepost_signing.keyless.identity import SigstoreIdentity, identity_of_certificate
from tradepost_signing.keyless.signing import TOKEN_VARIABLE, KeylessSigner
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.testing import FakeSigstore
from tradepost_signing.testing.transparency_log import inclusion_path, leaf_hash, tree_hash

ARTIFACT = b"an artifact"
ALICE = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
MALLORY = SigstoreIdentity(issuer="https://issuer.example", subject="mallory@example.com")
SIGSTORE = FakeSigstore()
ROOT = SIGSTORE.trusted_root()
TRUST = TrustPolicy.of_identity(ALICE, trusted_root=ROOT)
BUNDLE = sign_bytes(ARTIFACT, SIGSTORE.signer(ALICE))


def test_the_identity_is_established():
    verified = verify_artifact(ARTIFACT, BUNDLE, TRUST)
    assert verified.publisher.key == ALICE
    assert claimed_publishers(ARTIFACT, BUNDLE) == (ALICE.id,)


def test_the_bundle_is_as_the_specification_has_it():
    tree = json.loads(BUNDLE)
    assert tree["mediaType"] == MEDIA_TYPE
    assert tree["verificationMaterial"].keys() == {
        "certificate",
        "tlogEntries",
        "timestampVerificationData",
    }
    (entry,) = tree["verificationMaterial"]["tlogEntries"]
    assert entry["kindVersion"] == {"kind": "hashedrekord", "version": "0.0.1"}
    assert entry["inclusionProof"]["hashes"]
    assert tree["messageSignature"].keys() == {"messageDigest", "signature"}
    assert read_bundle(BUNDLE).to_dict() == tree


def test_a_file_is_signed_as_its_bytes_are(tmp_path):
    (tmp_path / "artifact").write_bytes(ARTIFACT)
    verify_artifact(ARTIFACT, sign_file(tmp_path / "artifact", SIGSTORE.signer(ALICE)), TRUST)


@pytest.mark.parametrize("subject", ["alice@example.com", "https://ci.example/job/1"])
def test_certificates_name_people_and_workflows(subject):
    named = SigstoreIdentity(issuer="https://issuer.example", subject=subject)
    bundle = read_bundle(sign_bytes(ARTIFACT, SIGSTORE.signer(named)))
    assert identity_of_certificate(bundle.verification_material.certificate.raw_bytes) == named


def test_identities_have_ids_of_their_own():
    others = [
        SigstoreIdentity(issuer=ALICE.subject, subject=ALICE.issuer),
        SigstoreIdentity(issuer="https://issuer.example/", subject=ALICE.subject),
        MALLORY,
    ]
    assert len({ALICE.id, *(one.id for one in others)}) == 4
    assert len(ALICE.id) == len(SigningKey.generate().public_key.id)


def test_another_identity_is_untrusted():
    with pytest.raises(UntrustedSigner) as caught:
        verify_artifact(ARTIFACT, sign_bytes(ARTIFACT, SIGSTORE.signer(MALLORY)), TRUST)
    assert caught.value.facts["subject"] == MALLORY.subject


def test_the_same_name_from_another_authority_is_refused():
    """Anyone can run an authority that writes any name into a certificate."""
    with pytest.raises(InvalidSignature):
        verify_artifact(ARTIFACT, sign_bytes(ARTIFACT, FakeSigstore().signer(ALICE)), TRUST)


def test_a_signature_made_with_an_expired_certificate_is_expired():
    late = FakeSigstore(logging_delay=timedelta(minutes=11))
    bundle = sign_bytes(ARTIFACT, late.signer(ALICE))
    with pytest.raises(ExpiredSignature):
        verify_artifact(ARTIFACT, bundle, TrustPolicy.of_identity(ALICE, trusted_root=late.trusted_root()))


def test_another_artifact_is_refused():
    with pytest.raises(InvalidSignature, match="was signed"):
        verify_artifact(b"another", BUNDLE, TRUST)


def test_the_log_entry_must_be_about_this_signature():
    """The same artifact, signed twice by the same identity: even then, entries are not exchangeable."""
    tree, other = json.loads(BUNDLE), json.loads(sign_bytes(ARTIFACT, SIGSTORE.signer(ALICE)))
    tree["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    with pytest.raises(InvalidSignature):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)


@pytest.mark.parametrize("part", ["tlogEntries", "inclusionProof", "inclusionPromise"])
def test_what_is_not_logged_is_refused(part):
    tree = json.loads(BUNDLE)
    material = tree["verificationMaterial"]
    target = material if part == "tlogEntries" else material["tlogEntries"][0]
    target[part] = [] if part == "tlogEntries" else None
    if target[part] is None:
        del target[part]
    with pytest.raises(InvalidSignature):
        verify_artifact(ARTIFACT, json.dumps(tree), TRUST)


def test_a_certificate_needs_a_name_and_an_issuer():
    authority = SIGSTORE.authority.root  # a certificate that names neither
    tree = json.loads(BUNDLE)
    for raw in ("MAo=", ""):
        tree["verificationMaterial"]["certificate"]["rawBytes"] = raw
        with pytest.raises(InvalidBundle):
            verify_artifact(ARTIFACT, json.dumps(tree), TRUST)
    with pytest.raises(InvalidBundle):
        identity_of_certificate(authority.public_bytes(Encoding.DER))


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"zero")
    return tmp_path / "model"


def test_directories_are_signed_keyless_too(model):
    signature = model / "model.sig"
    text = sign_directory(model, SIGSTORE.signer(ALICE), signature=signature)
    assert verify_directory(model, text, TRUST, signature=signature).publisher.key == ALICE
    with pytest.raises(UntrustedSigner):
        verify_directory(
            model, text, TrustPolicy.of_identity(MALLORY, trusted_root=ROOT), signature=signature
        )
    (model / "weights").write_bytes(b"one")
    with pytest.raises(InvalidSignature, match="changed: weights"):
        verify_directory(model, text, TRUST, signature=signature)


@given(size=st.integers(1, 40), data=st.data())
def test_the_fake_log_proves_what_is_in_it(size, data):
    """Checked against the other definition of the proof, upwards from the leaf (RFC 9162, 2.1.3.2)."""
    leaves = [leaf_hash(bytes([number])) for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    number, last, current = index, size - 1, leaves[index]
    for one in inclusion_path(index, leaves):
        if number % 2 or number == last:
            current = _node(one, current)
            while number % 2 == 0 and number:
                number, last = number // 2, last // 2
        else:
            current = _node(current, one)
        number, last = number // 2, last // 2
    assert (current, last) == (tree_hash(leaves), 0)


def _node(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


@pytest.fixture
def _no_network(monkeypatch, tmp_path):
    """The real `sigstore` package on a machine whose name service answers nothing."""

    def unreachable(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))


@pytest.mark.usefixtures("_no_network")
def test_without_a_network_it_says_so(tmp_path, monkeypatch):
    with pytest.raises(SigstoreUnavailable, match="Name or service not known") as caught:
        KeylessSigner.connect(token=None, interactive=False)
    assert "keygen" in caught.value.hint
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["sign", "file", "--keyless"])
    assert isinstance(result.exception, SigstoreUnavailable)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


class Instance:
    """What `KeylessSigner.connect` takes from the `sigstore` package, without the network."""

    def __init__(self, monkeypatch, *, ambient: str | None = None) -> None:
        monkeypatch.setattr("sigstore.models.ClientTrustConfig.production", lambda: self)
        monkeypatch.setattr("sigstore.sign.SigningContext.from_trust_config", lambda _config: self)
        monkeypatch.setattr("sigstore.oidc.detect_credential", lambda: ambient)
        monkeypatch.setattr("sigstore.oidc.Issuer", lambda _url: self)
        self.signing_config = self

    def get_oidc_url(self) -> str:
        return "https://oauth.example"

    def identity_token(self) -> str:
        return "signed in"


def test_who_cannot_sign_in_is_told(monkeypatch):
    instance = Instance(monkeypatch)
    with pytest.raises(IdentityRefused, match="no terminal"):
        KeylessSigner.connect(token=None, interactive=False)
    with pytest.raises(IdentityRefused, match="malformed"):
        KeylessSigner.connect(token="not a token", interactive=True)
    signer = KeylessSigner.connect(token=None, interactive=True)
    assert signer._context is instance
    assert signer._token == "signed in"


def test_a_ci_system_needs_no_terminal(monkeypatch):
    Instance(monkeypatch, ambient="not a token")
    with pytest.raises(IdentityRefused, match="malformed"):
        KeylessSigner.connect(token=None, interactive=False)


@pytest.fixture
def connected(monkeypatch, tmp_path):
    """The commands run against the Sigstore in memory; gives the tokens that they were called with."""
    tokens: list[str | None] = []

    def connect(*, token, interactive):
        assert not interactive
        tokens.append(token)
        return SIGSTORE.signer(ALICE)

    monkeypatch.setattr(KeylessSigner, "connect", connect)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(ARTIFACT)
    (tmp_path / "root.json").write_bytes(ROOT)
    return tokens


def ok(*arguments, **options):
    result = CliRunner().invoke(app, list(arguments), **options)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_commands_sign_and_verify_keyless(connected, tmp_path):
    (tmp_path / "token").write_text("a token\n")
    facts = json.loads(ok("sign", "file", "--keyless", "--identity-token-file", "token", "--json"))
    assert facts == {"signature": "file.sigstore.json"} | ALICE.facts()
    ok("sign", "file", "--keyless", env={TOKEN_VARIABLE: "another"})
    ok("sign", "file", "--keyless")
    assert connected == ["a token", "another", None]
    who = ("--identity", ALICE.subject, "--issuer", ALICE.issuer, "--trusted-root", "root.json")
    facts = json.loads(ok("verify", "file", *who, "--json"))
    assert (facts["verdict"], facts["subject"], facts["issuer"]) == ("ok", ALICE.subject, ALICE.issuer)
    assert str(ALICE) in ok("verify", "file", *who)
    (tmp_path / "trust.toml").write_text(
        f'trusted_root = "root.json"\n[[identity]]\nname = "alice"\nissuer = "{ALICE.issuer}"\n'
        f'subject = "{ALICE.subject}"\n'
    )
    assert "signed by alice" in ok("verify", "file", "--trust", "trust.toml")


def test_a_signature_is_by_a_key_or_keyless(connected):
    for arguments in ((), ("--key", "key", "--keyless"), ("--keyless", "--append", "--out", "x")):
        assert CliRunner().invoke(app, ["sign", "file", *arguments]).exit_code == 2
    assert connected == []
