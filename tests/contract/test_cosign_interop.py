"""cosign accepts what is signed here, and what cosign signs is accepted here; one changed byte fails in both.

cosign runs as users run it, as a process of its own, without a network and with an empty home.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tradepost.errors import InvalidSignature, UntrustedSigner
from tradepost_signing.bundles.bundle import bundle_path, join_bundles, read_bundle, sign_file
from tradepost_signing.checks.verify import verify_file
from tradepost_signing.keys import PublicKey, SigningKey
from tradepost_signing.policy.revocation import RevocationDocument
from tradepost_signing.policy.revocation_store import sign_revocations
from tradepost_signing.policy.trust import TrustPolicy

COSIGN = os.environ.get("TRADEPOST_COSIGN") or shutil.which("cosign")
pytestmark = pytest.mark.skipif(
    COSIGN is None,
    reason="no `cosign` on the path, and TRADEPOST_COSIGN names none; `.ci/cosign` builds one",
)

#: Nothing goes to a transparency log, and no list of services is asked for.
OFFLINE = ("--tlog-upload=false", "--use-signing-config=false", "--yes")
KEY = SigningKey.generate()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    KEY.save(tmp_path / "key", passphrase=None)
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(range(256)) * 5000)
    return path


def cosign(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert COSIGN is not None
    return subprocess.run(
        [COSIGN, *arguments],
        cwd=folder,
        env={"HOME": str(folder), "COSIGN_PASSWORD": "correct horse", "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def theirs_verifies(path: Path, *, key: str = "key.pub") -> subprocess.CompletedProcess[str]:
    # The line of docs/signing.md.
    bundle = bundle_path(path).name
    return cosign(
        path.parent,
        *("verify-blob", "--key", key, "--bundle", bundle, "--insecure-ignore-tlog=true", path.name),
    )


def theirs_signs(path: Path) -> PublicKey:
    """Sign `path` with a key that cosign makes; the key."""
    folder = path.parent
    made = cosign(folder, "generate-key-pair")
    assert made.returncode == 0, made.stderr
    signed = cosign(
        folder, "sign-blob", "--key", "cosign.key", "--bundle", bundle_path(path).name, *OFFLINE, path.name
    )
    assert signed.returncode == 0, signed.stderr
    return PublicKey.load(folder / "cosign.pub")


def test_cosign_accepts_a_file_signed_here(model: Path):
    bundle_path(model).write_text(sign_file(model, KEY))
    result = theirs_verifies(model)
    assert result.returncode == 0, result.stderr
    assert "Verified OK" in result.stdout + result.stderr


def test_cosign_refuses_a_changed_byte_and_another_key(model: Path):
    bundle_path(model).write_text(sign_file(model, KEY))
    SigningKey.generate().save(model.parent / "other", passphrase=None)
    assert theirs_verifies(model, key="other.pub").returncode != 0
    model.write_bytes(b"\1" + model.read_bytes()[1:])
    assert theirs_verifies(model).returncode != 0


def test_cosign_accepts_a_revocation_list_signed_here(model: Path):
    signed = sign_revocations(RevocationDocument(version=1, issued_at=1), KEY)
    path = model.with_name("revocations.json")
    path.write_bytes(signed.document)
    bundle_path(path).write_text(signed.bundle)
    result = theirs_verifies(path)
    assert result.returncode == 0, result.stderr


def test_a_file_that_cosign_signs_is_accepted_here(model: Path):
    public_key = theirs_signs(model)
    bundle = bundle_path(model).read_text()
    verified = verify_file(model, bundle, TrustPolicy.of_key(public_key, name="publisher"))
    assert verified.publisher.name == "publisher"
    with pytest.raises(UntrustedSigner):
        verify_file(model, bundle, TrustPolicy.of_key(KEY.public_key, name="another"))
    model.write_bytes(b"\1" + model.read_bytes()[1:])
    with pytest.raises(InvalidSignature):
        verify_file(model, bundle, TrustPolicy.of_key(public_key, name="publisher"))


def test_both_signatures_on_one_file_are_read_here(model: Path):
    public_key = theirs_signs(model)
    both = join_bundles([bundle_path(model).read_text(), sign_file(model, KEY)])
    for key in (public_key, KEY.public_key):
        assert verify_file(model, both, TrustPolicy.of_key(key, name="publisher"))


def test_a_key_made_here_signs_in_cosign(model: Path):
    """Publishers can move: cosign imports the key, and its signature is by the same publisher."""
    imported = cosign(model.parent, "import-key-pair", "--key", "key", "--output-key-prefix", "moved")
    assert imported.returncode == 0, imported.stderr
    name = bundle_path(model).name
    signed = cosign(model.parent, "sign-blob", "--key", "moved.key", "--bundle", name, *OFFLINE, model.name)
    assert signed.returncode == 0, signed.stderr
    assert read_bundle(bundle_path(model).read_text())
    trust = TrustPolicy.of_key(KEY.public_key, name="publisher")
    assert verify_file(model, bundle_path(model).read_text(), trust).publisher.name == "publisher"
