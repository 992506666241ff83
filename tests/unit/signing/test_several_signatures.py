"""Several signatures on one artifact: any trusted one will do, and so keys can be replaced."""

import json

import pytest
from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.content import cid_of_block
from tradepost.errors import (
    InvalidBundle,
    InvalidSignature,
    UnsignedArtifact,
    UntrustedPipeline,
    UntrustedSigner,
)
from tradepost.pipeline.manifest import KernelStage, Manifest, TensorSpec, encode_manifest
from tradepost_signing.bundles.bundle import (
    BUNDLE_BYTES_MAX,
    SIGNATURES_MAX,
    join_bundles,
    read_bundle,
    read_bundles,
    sign_bytes,
)
from tradepost_signing.checks.signature_files import further_path, signature_paths
from tradepost_signing.checks.verify import claimed_publishers, verify_artifact
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.testing import FakeSigstore

ARTIFACT = b"an artifact"
OLD, NEW, STRANGER = (SigningKey.generate() for _ in range(3))
ALICE = SigstoreIdentity(issuer="https://issuer.example", subject="alice@example.com")
MANIFEST = Manifest(
    name="echo",
    version="1",
    inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
    stages=(
        KernelStage(
            name="one", artifact=cid_of_block(b"wasm", "raw"), inputs={"x": "input.x"}, outputs=("y",)
        ),
    ),
    outputs={"y": "one.y"},
)
BLOCK = encode_manifest(MANIFEST)


def trusting(*keys: SigningKey, deny: tuple[SigningKey, ...] = ()) -> TrustPolicy:
    publishers = [TrustPolicy.of_key(key.public_key, name="alice").publishers[0] for key in keys]
    return TrustPolicy(
        publishers=tuple(publishers), deny=frozenset(key.public_key.id for key in deny), source="trust.toml"
    )


def signed(*keys: SigningKey, artifact: bytes = ARTIFACT) -> str:
    return join_bundles(sign_bytes(artifact, key) for key in keys)


@pytest.mark.parametrize("trusted", [OLD, NEW])
def test_any_trusted_signature_will_do_and_is_named(trusted):
    verified = verify_artifact(ARTIFACT, signed(OLD, NEW), trusting(trusted))
    assert verified.publisher.key == trusted.public_key


def test_a_bad_signature_hides_no_good_one():
    bad = sign_bytes(b"another artifact", OLD)
    bundles = join_bundles([bad, sign_bytes(ARTIFACT, NEW)])
    assert verify_artifact(ARTIFACT, bundles, trusting(OLD, NEW)).publisher.key == NEW.public_key
    with pytest.raises(InvalidSignature):
        verify_artifact(ARTIFACT, bundles, trusting(OLD))


def test_no_number_of_strangers_is_trusted():
    with pytest.raises(UntrustedSigner):
        verify_artifact(ARTIFACT, signed(STRANGER, NEW, OLD), TrustPolicy())


def test_what_says_most_is_raised():
    bundles = join_bundles([sign_bytes(ARTIFACT, STRANGER), sign_bytes(b"another", OLD)])
    with pytest.raises(InvalidSignature, match="was signed"):
        verify_artifact(ARTIFACT, bundles, trusting(OLD))


def test_keys_and_identities_may_sign_side_by_side():
    sigstore = FakeSigstore()
    bundles = join_bundles([sign_bytes(ARTIFACT, OLD), sign_bytes(ARTIFACT, sigstore.signer(ALICE))])
    by_identity = TrustPolicy.of_identity(ALICE, trusted_root=sigstore.trusted_root())
    assert verify_artifact(ARTIFACT, bundles, by_identity).publisher.key == ALICE
    assert verify_artifact(ARTIFACT, bundles, trusting(OLD)).publisher.key == OLD.public_key
    assert claimed_publishers(ARTIFACT, bundles) == (OLD.public_key.id, ALICE.id)


def test_what_is_claimed_must_be_over_the_artifact_all_of_it():
    with pytest.raises(InvalidSignature):
        claimed_publishers(ARTIFACT, join_bundles([signed(OLD), sign_bytes(b"another", NEW)]))
    with pytest.raises(UnsignedArtifact):
        claimed_publishers(ARTIFACT, "")


def test_each_bundle_is_one_that_others_read():
    lines = signed(OLD, NEW).splitlines()
    assert [json.loads(line)["mediaType"] for line in lines] == [
        "application/vnd.dev.sigstore.bundle.v0.3+json"
    ] * 2
    indented = "\n".join(json.dumps(json.loads(line), indent=1) for line in lines)
    assert len(read_bundles(indented)) == 2


def test_one_unreadable_bundle_makes_all_unreadable():
    good = signed(OLD)
    for bad in ("{}", "x", good[:-1], "[]"):
        for bundles in (f"{good}\n{bad}", f"{bad}\n{good}"):
            with pytest.raises(InvalidBundle):
                verify_artifact(ARTIFACT, bundles, trusting(OLD))


def test_there_are_at_most_eight_and_they_share_the_cap():
    assert len(read_bundles(signed(*[OLD] * SIGNATURES_MAX))) == SIGNATURES_MAX
    with pytest.raises(InvalidBundle, match="more than"):
        read_bundles(signed(*[OLD] * (SIGNATURES_MAX + 1)))
    with pytest.raises(InvalidBundle, match="the limit is"):
        read_bundles(signed(OLD) + " " * BUNDLE_BYTES_MAX)
    with pytest.raises(InvalidBundle, match="exactly one is required"):
        read_bundle(signed(OLD, NEW))


def test_rotation():
    """Both keys overlap; then the old one is denied. What both signed never stops running."""
    before, during, after = (signed(*keys, artifact=BLOCK) for keys in ((OLD,), (OLD, NEW), (NEW,)))

    def runs(trust: TrustPolicy, bundles: str) -> bool:
        try:
            trust.check_pipeline(MANIFEST, BLOCK, bundles)
        except UntrustedPipeline:
            return False
        return True

    only_old, both = trusting(OLD), trusting(OLD, NEW)
    old_denied, only_new = trusting(OLD, NEW, deny=(OLD,)), trusting(NEW)
    table = {
        "before": [runs(trust, before) for trust in (only_old, both, old_denied, only_new)],
        "during": [runs(trust, during) for trust in (only_old, both, old_denied, only_new)],
        "after": [runs(trust, after) for trust in (only_old, both, old_denied, only_new)],
    }
    assert table == {
        "before": [True, True, False, False],
        "during": [True, True, True, True],
        "after": [False, True, True, True],
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OLD.save(tmp_path / "old", passphrase=None)
    NEW.save(tmp_path / "new", passphrase=None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    (tmp_path / "file").write_text("content")
    return tmp_path


def ok(*arguments: str) -> dict:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def verdict(*arguments: str) -> str:
    return json.loads(CliRunner().invoke(app, ["verify", *arguments, "--json"]).stdout)["verdict"]


@pytest.mark.parametrize("what", ["file", "model"])
def test_a_further_signature_is_kept_beside_the_first(folder, what):
    first = ok("sign", what, "--key", "old")["signature"]
    before = (folder / first).read_text()
    further = ok("sign", what, "--key", "new", "--append")["signature"]
    assert (folder / first).read_text() == before
    assert NEW.public_key.id[:8] in further
    assert [str(path) for path in signature_paths(folder / what)] == [
        str(folder / first),
        str(folder / further),
    ]
    for key in (OLD, NEW):
        name = "old.pub" if key is OLD else "new.pub"
        assert ok("verify", what, "--key", name)["key_id"] == key.public_key.id
        assert ok("verify", what, "--key", name, "--bundle", first if key is OLD else further)
    assert len(ok("inspect", what)["signatures"]) == 2
    (folder / what / "weights" if what == "model" else folder / what).write_text("changed")
    assert verdict(what, "--key", "new.pub") == "tampered"


def test_append_makes_the_first_signature_as_well(folder):
    assert ok("sign", "file", "--key", "old", "--append")["signature"] == "file.sigstore.json"


def test_a_directory_without_a_name_of_its_own(folder, monkeypatch):
    monkeypatch.chdir(folder / "model")
    ok("sign", ".", "--key", "../old")
    ok("sign", ".", "--key", "../new", "--append")
    assert ok("verify", ".", "--key", "../new.pub")["key_id"] == NEW.public_key.id
    assert further_path(folder / "model", NEW.public_key.id).exists()


def test_the_bundle_of_another_file_is_not_taken_for_one(folder):
    (folder / "file.onnx.sigstore.json").write_text(signed(OLD))
    (folder / "filex.abcdefgh.sigstore.json").write_text(signed(OLD))
    assert signature_paths(folder / "file") == []
    assert verdict("file", "--key", "old.pub") == "unsigned"
