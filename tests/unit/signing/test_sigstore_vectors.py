"""Signatures that others made with Sigstore verify here, offline, and only as what they are.

Where the files are from is in `tests/data/sigstore/README.md`.
"""

import importlib.resources
import json
import socket
from pathlib import Path

import pytest

from tradepost.content import add_file
from tradepost.errors import InvalidSignature, TradepostError, UntrustedSigner
from tradepost_signing.checks.verify import verify_artifact, verify_file
from tradepost_signing.commands.inspection import inspect
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.policy.trust import TrustPolicy

DATA = Path(__file__).parents[2] / "data" / "sigstore"
STAGING_ROOT = (
    importlib.resources.files("sigstore._store")
    .joinpath("https%3A%2F%2Ftuf-repo-cdn.sigstage.dev", "trusted_root.json")
    .read_bytes()
)
WORKFLOW = SigstoreIdentity(
    issuer="https://token.actions.githubusercontent.com",
    subject="https://github.com/trailofbits/pypi-attestation-models/.github/workflows/release.yml@refs/tags/v0.0.4a2",
)
PERSON = SigstoreIdentity(issuer="https://github.com/login/oauth", subject="william@yossarian.net")
ARTIFACT = DATA / "pypi_attestation_models-0.0.4a2.tar.gz"
BUNDLE = (DATA / f"{ARTIFACT.name}.sigstore.json").read_text()
TRUST = TrustPolicy.of_identity(WORKFLOW)
STAGED = DATA / "rfc8785-0.1.2-py3-none-any.whl"
STAGED_BUNDLE = (DATA / f"{STAGED.name}.sigstore.json").read_text()

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number:DeprecationWarning")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("verification used the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_release_of_the_public_instance_verifies():
    verified = verify_file(ARTIFACT, BUNDLE, TRUST)
    assert verified.publisher.key == WORKFLOW
    assert verify_artifact(ARTIFACT.read_bytes(), BUNDLE, TRUST) == verified


def test_another_instance_verifies_against_its_own_root_only():
    verify_file(STAGED, STAGED_BUNDLE, TrustPolicy.of_identity(PERSON, trusted_root=STAGING_ROOT))
    with pytest.raises(InvalidSignature) as caught:
        verify_file(STAGED, STAGED_BUNDLE, TrustPolicy.of_identity(PERSON))
    assert "trusted root" in caught.value.hint
    with pytest.raises(InvalidSignature):
        verify_file(ARTIFACT, BUNDLE, TrustPolicy.of_identity(WORKFLOW, trusted_root=STAGING_ROOT))


@pytest.mark.parametrize(
    "other",
    [
        SigstoreIdentity(issuer=WORKFLOW.issuer, subject=WORKFLOW.subject.replace("v0.0.4a2", "v0.0.4a3")),
        SigstoreIdentity(issuer=WORKFLOW.issuer, subject=WORKFLOW.subject[:-1]),
        SigstoreIdentity(issuer=WORKFLOW.issuer, subject=PERSON.subject),
        SigstoreIdentity(issuer=PERSON.issuer, subject=WORKFLOW.subject),
        SigstoreIdentity(issuer=WORKFLOW.issuer + "/", subject=WORKFLOW.subject),
    ],
    ids=["other tag", "prefix", "other subject", "other issuer", "issuer with a slash"],
)
def test_the_wrong_identity_or_issuer_is_untrusted(other):
    with pytest.raises(UntrustedSigner) as caught:
        verify_file(ARTIFACT, BUNDLE, TrustPolicy.of_identity(other))
    assert caught.value.facts["subject"] == WORKFLOW.subject
    assert caught.value.facts["issuer"] == WORKFLOW.issuer


def test_a_changed_byte_of_the_artifact_is_refused():
    data = bytearray(ARTIFACT.read_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(InvalidSignature, match="was signed"):
        verify_artifact(bytes(data), BUNDLE, TRUST)
    with pytest.raises(InvalidSignature, match="was signed"):
        verify_artifact(STAGED.read_bytes(), BUNDLE, TRUST)


@pytest.mark.parametrize(
    "path",
    [
        ("dsseEnvelope", "payload"),
        ("dsseEnvelope", "signatures", 0, "sig"),
        ("verificationMaterial", "certificate", "rawBytes"),
        ("verificationMaterial", "tlogEntries", 0, "canonicalizedBody"),
        ("verificationMaterial", "tlogEntries", 0, "integratedTime"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionPromise", "signedEntryTimestamp"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "rootHash"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "hashes", 0),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "logIndex"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "treeSize"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "checkpoint", "envelope"),
        ("verificationMaterial", "tlogEntries", 0, "logId", "keyId"),
        ("verificationMaterial", "tlogEntries", 0, "logIndex"),
    ],
    ids=lambda path: path[-1] if isinstance(path[-1], str) else path[-2],
)
def test_a_change_in_any_part_of_the_bundle_is_refused(path):
    """(The one thing in it that nothing covers is the name on the checkpoint's signature, a mere label.)"""
    tree = json.loads(BUNDLE)
    target = tree
    for part in path[:-1]:
        target = target[part]
    text = target[path[-1]]
    place = len(text) // 3
    other = "1" if text[place] != "1" else "2"
    target[path[-1]] = text[:place] + other + text[place + 1 :]
    with pytest.raises(TradepostError):
        verify_artifact(ARTIFACT.read_bytes(), json.dumps(tree), TRUST)


def test_parts_of_two_signatures_make_none():
    """A certificate, an envelope or a log entry of one signature lends nothing to another."""
    tree, other = json.loads(BUNDLE), json.loads(STAGED_BUNDLE)
    for part in ("certificate", "tlogEntries"):
        mixed = json.loads(BUNDLE)
        mixed["verificationMaterial"][part] = other["verificationMaterial"][part]
        with pytest.raises(TradepostError):
            verify_file(ARTIFACT, json.dumps(mixed), TRUST)
    with pytest.raises(TradepostError):
        verify_file(STAGED, json.dumps(tree | {"dsseEnvelope": other["dsseEnvelope"]}), TRUST)


def test_an_owner_may_trust_and_deny_it(tmp_path):
    (tmp_path / "root.json").write_bytes(STAGING_ROOT)
    entry = (
        '[[identity]]\nname = "w"\n'
        f'issuer = "{PERSON.issuer}"\nsubject = "{PERSON.subject}"\nmax_model_bytes = 1_000\n'
    )
    policy = tmp_path / "trust.toml"
    policy.write_text(f'trusted_root = "root.json"\n{entry}')
    verified = verify_file(STAGED, STAGED_BUNDLE, TrustPolicy.load(policy))
    assert (verified.publisher.name, verified.publisher.max_model_bytes) == ("w", 1_000)
    for denied in (PERSON.id, add_file(STAGED, put=None)):
        policy.write_text(f'trusted_root = "root.json"\ndeny = ["{denied}"]\n{entry}')
        with pytest.raises(UntrustedSigner) as caught:
            verify_file(STAGED, STAGED_BUNDLE, TrustPolicy.load(policy))
        assert caught.value.facts["rule"] == "deny"


def test_inspecting_says_who_claims_what():
    facts = inspect(ARTIFACT)
    (signature,) = facts.signatures
    assert facts.kind == "file"
    assert signature.signs == "publication"
    assert signature.sha256 == (facts.sha256,)
    assert (signature.issuer, signature.subject) == (WORKFLOW.issuer, WORKFLOW.subject)
    assert signature.valid_from <= signature.logged_at <= signature.valid_until
    assert inspect(DATA / f"{ARTIFACT.name}.sigstore.json").kind == "bundle"
