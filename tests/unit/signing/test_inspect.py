"""`tradepost inspect` says what is there and who claims it, and judges nothing."""

import hashlib
import json

import pytest
from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.content import add_bytes, cid_of_block
from tradepost.errors import InvalidArtifact, InvalidBundle
from tradepost.pipeline.manifest import KernelStage, Manifest, TensorSpec, encode_manifest
from tradepost_signing.bundles.bundle import join_bundles, sign_bytes
from tradepost_signing.checks.signature_directory import sign_directory
from tradepost_signing.commands.inspection import inspect
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.revocation import RevocationDocument, encode_revocations
from tradepost_signing.testing import FakeSigstore

KEY = SigningKey.generate()
ALICE = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")


def shown(path) -> str:
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_an_unsigned_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    facts = inspect(path)
    assert (facts.kind, facts.sha256) == ("file", hashlib.sha256(b"content").hexdigest())
    assert (facts.cid, facts.signatures) == (add_bytes(b"content", put=None), ())
    assert "not signed" in shown(path)


def test_a_file_with_a_keys_and_a_keyless_signature(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    signers = (KEY, FakeSigstore().signer(ALICE))
    text = join_bundles(sign_bytes(b"content", signer) for signer in signers)
    (tmp_path / "file.sigstore.json").write_text(text)
    by_key, keyless = inspect(path).signatures
    assert by_key.key_id == KEY.public_key.id
    assert (keyless.subject, keyless.issuer, keyless.identity_id) == (ALICE.subject, ALICE.issuer, ALICE.id)
    assert keyless.valid_from <= keyless.logged_at <= keyless.valid_until
    assert by_key.sha256 == keyless.sha256 == (inspect(path).sha256,)
    text = shown(path)
    for fact in (KEY.public_key.id, ALICE.subject, ALICE.issuer, "logged at", "Nothing here was verified"):
        assert fact in text


def test_nobody_is_judged(tmp_path):
    """A signature over other bytes is shown as what it is."""
    path = tmp_path / "file"
    path.write_bytes(b"changed")
    (tmp_path / "file.sigstore.json").write_text(sign_bytes(b"content", KEY))
    facts = inspect(path)
    assert facts.signatures[0].sha256 == (hashlib.sha256(b"content").hexdigest(),) != (facts.sha256,)


def test_a_bundle_by_itself(tmp_path):
    path = tmp_path / "some.json"
    path.write_text(sign_bytes(b"content", KEY))
    facts = inspect(path)
    assert facts.kind == "bundle"
    assert facts.signatures[0].file == str(path)


def test_a_directory(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "weights").write_bytes(b"zero")
    unsigned = inspect(directory)
    signature = directory / "model.sig"
    signature.write_text(sign_directory(directory, KEY, signature=signature))
    facts = inspect(directory)
    assert (facts.kind, facts.files, facts.sha256) == ("directory", 1, unsigned.sha256)
    (signed,) = facts.signatures
    assert (signed.signs, signed.sha256, signed.files) == ("directory", (facts.sha256,), 1)
    assert signed.key_hint == KEY.public_key.directory_hint
    assert "of 1 files" in shown(directory)
    assert inspect(signature).signatures[0].signs == "directory"


def test_a_pipeline_and_a_list_of_revocations(tmp_path):
    stage = KernelStage(
        name="one", artifact=cid_of_block(b"wasm", "raw"), inputs={"x": "input.x"}, outputs=("y",)
    )
    block = encode_manifest(
        Manifest(
            name="echo",
            version="1.2",
            inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
            stages=(stage,),
            outputs={"y": "one.y"},
        )
    )
    (tmp_path / "manifest").write_bytes(block)
    facts = inspect(tmp_path / "manifest")
    assert (facts.kind, facts.name, facts.cid) == ("pipeline", "echo 1.2", cid_of_block(block, "dag-cbor"))
    (tmp_path / "list").write_bytes(encode_revocations(RevocationDocument(version=7, issued_at=1)))
    assert inspect(tmp_path / "list").kind == "revocation list"
    assert "version 7" in shown(tmp_path / "list")


def test_a_statement_about_something_else(tmp_path):
    bundle = json.loads(sign_bytes(b"", KEY))
    del bundle["messageSignature"]
    bundle["dsseEnvelope"] = {
        "payload": "e30=",
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": "MAo="}],
    }
    (tmp_path / "bundle").write_text(json.dumps(bundle))
    assert inspect(tmp_path / "bundle").signatures[0].signs == "something else"


def test_json_is_for_programs(tmp_path):
    (tmp_path / "file").touch()
    facts = json.loads(CliRunner().invoke(app, ["inspect", str(tmp_path / "file"), "--json"]).stdout)
    assert facts == {
        "path": str(tmp_path / "file"),
        "kind": "file",
        "sha256": hashlib.sha256(b"").hexdigest(),
        "cid": add_bytes(b"", put=None),
    }


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{}", b"null", b" ", b"\x00" * 100])
def test_any_file_is_a_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert inspect(tmp_path / "file").kind == "file"


def test_what_cannot_be_read_is_named(tmp_path):
    absent = CliRunner().invoke(app, ["inspect", str(tmp_path / "absent")])
    assert isinstance(absent.exception, InvalidArtifact)
    (tmp_path / "file").touch()
    (tmp_path / "file.sigstore.json").write_text("{}")
    with pytest.raises(InvalidBundle):
        inspect(tmp_path / "file")


def test_what_nobody_checked_is_shown_whatever_it_is(tmp_path):
    """A time beyond all dates, and a name that would write lines of its own."""
    path = tmp_path / "some.json"
    tree = json.loads(sign_bytes(b"content", FakeSigstore().signer(ALICE)))
    tree["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = str(2**64 - 1)
    path.write_text(json.dumps(tree))
    assert "logged at second 18446744073709551615" in shown(path)
    tree = json.loads(sign_bytes(b"content", KEY))
    tree["verificationMaterial"]["publicKey"]["hint"] = "x\n  not signed\x9b2J"
    path.write_text(json.dumps(tree))
    assert r"with the hint x\n  not signed\x9b2J" in shown(path)
