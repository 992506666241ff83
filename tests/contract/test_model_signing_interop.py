"""The OpenSSF Model Signing reference implementation accepts our directories, and we accept its own.

`model_signing` runs as users run it, as a process of its own, on keys in files.
"""

import json
import subprocess
import sys

import pytest

from tradepost.errors import InvalidArtifact, InvalidSignature, UntrustedSigner
from tradepost_signing.checks.signature_directory import sign_directory, verify_directory
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.testing import FakeSigstore

KEY = SigningKey.generate()
TRUST = TrustPolicy.of_key(KEY.public_key, name="publisher")
FILES = {
    "kernel.wasm": b"\0asm",
    "model.onnx": bytes(range(256)) * 5000,
    "empty": b"",
    "nested/deep/größe 模型.txt": b"unicode",
    "nested.txt": b"sorts beside nested/",
    "with:colon": b"1",
    ".hidden": b"2",
    ".gitattributes": b"not signed by either",
}


@pytest.fixture
def model(tmp_path):
    KEY.save(tmp_path / "key", passphrase=None)
    directory = tmp_path / "model"
    for name, data in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    (directory / "no files in here").mkdir()
    return directory


def model_signing(folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def theirs_verifies(folder) -> subprocess.CompletedProcess[str]:
    return model_signing(
        folder, "verify", "key", "model", "--signature", "model/model.sig", "--public_key", "key.pub"
    )


def ours_verifies(model) -> tuple[str, ...]:
    signature = model / "model.sig"
    return verify_directory(model, signature.read_text(), TRUST, signature=signature).files


SIGNED = {*FILES} - {".gitattributes"}


def test_they_accept_what_we_sign_and_name_a_changed_file(model, tmp_path):
    signature = model / "model.sig"
    signature.write_text(sign_directory(model, KEY, signature=signature))
    done = theirs_verifies(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {*ours_verifies(model)} == SIGNED

    flip(model / "model.onnx")
    done = theirs_verifies(tmp_path)
    assert done.returncode != 0
    assert "model.onnx" in done.stdout + done.stderr
    with pytest.raises(InvalidSignature, match=r"changed: model\.onnx"):
        ours_verifies(model)


def test_a_directory_that_they_signed_with_links_is_not_called_tampered(model, tmp_path):
    (model / "link").symlink_to("kernel.wasm")
    arguments = ("sign", "key", "model", "--signature", "model/model.sig", "--private_key", "key")
    done = model_signing(tmp_path, *arguments, "--allow_symlinks")
    assert done.returncode == 0, done.stderr
    with pytest.raises(InvalidArtifact, match=r"link is a link .* Its signature allows links"):
        ours_verifies(model)
    # Where each link was replaced by its file, the same signature holds.
    (model / "link").unlink()
    (model / "link").write_bytes(FILES["kernel.wasm"])
    assert "link" in ours_verifies(model)


@pytest.mark.parametrize("ignoring", [(), ("--ignore-paths", "model/.hidden")])
def test_we_accept_what_they_sign_and_name_a_changed_file(model, tmp_path, ignoring):
    done = model_signing(
        tmp_path, "sign", "key", "model", "--signature", "model/model.sig", "--private_key", "key", *ignoring
    )
    assert done.returncode == 0, done.stderr
    assert {*ours_verifies(model)} == SIGNED - ({".hidden"} if ignoring else set())
    assert theirs_verifies(tmp_path).returncode == 0

    flip(model / "nested/deep/größe 模型.txt")
    with pytest.raises(InvalidSignature, match="changed: nested/deep/größe 模型"):
        ours_verifies(model)
    done = theirs_verifies(tmp_path)
    assert done.returncode != 0
    assert "nested/deep/größe 模型.txt" in done.stdout + done.stderr


def test_they_accept_a_further_signature_beside_the_first(model, tmp_path):
    other = SigningKey.generate()
    other.save(tmp_path / "other", passphrase=None)
    first = model / "model.sig"
    first.write_text(sign_directory(model, KEY, signature=first))
    further = tmp_path / "model.further.sig"
    further.write_text(sign_directory(model, other, signature=first))
    assert theirs_verifies(tmp_path).returncode == 0
    command = ("verify", "key", "model", "--signature", further.name, "--public_key", "other.pub")
    done = model_signing(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    flip(model / "model.onnx")
    assert model_signing(tmp_path, *command).returncode != 0


def test_they_accept_what_we_sign_keyless(model, tmp_path):
    sigstore = FakeSigstore()
    alice = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
    config = {
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads(sigstore.trusted_root()),
        "signingConfig": {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    signature = model / "model.sig"
    signature.write_text(sign_directory(model, sigstore.signer(alice), signature=signature))
    command = (
        "verify",
        "sigstore",
        "model",
        "--signature",
        "model/model.sig",
        "--trust_config",
        "config.json",
    )
    who = ("--identity", alice.subject, "--identity_provider", alice.issuer)
    done = model_signing(tmp_path, *command, *who)
    assert done.returncode == 0, done.stdout + done.stderr
    assert model_signing(tmp_path, *command, "--identity", "bob", *who[2:]).returncode != 0
    flip(model / "model.onnx")
    assert model_signing(tmp_path, *command, *who).returncode != 0


def test_both_refuse_another_key(model, tmp_path):
    signature = model / "model.sig"
    signature.write_text(sign_directory(model, SigningKey.generate(), signature=signature))
    assert theirs_verifies(tmp_path).returncode != 0
    with pytest.raises(UntrustedSigner):
        ours_verifies(model)


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
