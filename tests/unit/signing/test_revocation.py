"""What the operator revokes does not run, and no older list comes back."""

import json
import os

import msgspec
import pytest
from typer.testing import CliRunner

from tradepost.cli import app
from tradepost.content import add_bytes, cid_of_block
from tradepost.errors import (
    Fault,
    InvalidRevocations,
    InvalidSignature,
    RevocationRollback,
    Revoked,
    TradepostError,
    UnsignedArtifact,
    UntrustedSigner,
)
from tradepost.pipeline.manifest import KernelStage, Manifest, ModelStage, TensorSpec, encode_manifest
from tradepost_signing.bundles.bundle import join_bundles, sign_bytes
from tradepost_signing.checks.publisher import Publisher
from tradepost_signing.checks.verify import verify_artifact
from tradepost_signing.keyless.identity import SigstoreIdentity
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.revocation import (
    REVOCATIONS_BYTES_MAX,
    RevocationDocument,
    RevocationList,
    RevokedIdentity,
    decode_revocations,
    encode_revocations,
    revocations_from_toml,
)
from tradepost_signing.policy.revocation_store import (
    RevocationStore,
    SignedRevocations,
    sign_revocations,
    verify_revocations,
)
from tradepost_signing.policy.trust import TrustPolicy

KERNEL, MODEL = add_bytes(b"kernel", put=None), add_bytes(b"model", put=None)
OPERATOR, ALICE, BOB, STRANGER = (SigningKey.generate() for _ in range(4))
ROBOT = SigstoreIdentity(issuer="https://issuer.example", subject="https://ci.example/job")
MANIFEST = Manifest(
    name="digits",
    version="1",
    inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
    stages=(
        KernelStage(name="prepare", artifact=KERNEL, inputs={"x": "input.x"}, outputs=("y",)),
        ModelStage(name="model", artifact=MODEL, inputs={"y": "prepare.y"}, outputs=("z",)),
    ),
    outputs={"z": "model.z"},
)
BLOCK = encode_manifest(MANIFEST)
PIPELINE = cid_of_block(BLOCK, "dag-cbor")


def document(version: int = 1, **entries) -> RevocationDocument:
    return RevocationDocument(version=version, issued_at=1_700_000_000, **entries)


def revocations(version: int = 1, **entries) -> RevocationList:
    return RevocationList(document(version, **entries))


def signed(version: int = 1, key: SigningKey = OPERATOR, **entries) -> SignedRevocations:
    return sign_revocations(document(version, **entries), key)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"publishers": {ALICE.public_key.id: "key stolen"}}, "its publisher"),
        ({"cids": {PIPELINE: "key stolen"}}, "the pipeline"),
        ({"cids": {KERNEL: "key stolen"}}, "an artifact"),
        ({"cids": {MODEL: "key stolen"}}, "an artifact"),
    ],
)
def test_a_revoked_pipeline_is_refused_with_the_reason(entries, what):
    with pytest.raises(Revoked, match=what) as caught:
        revocations(7, **entries).check_pipeline(PIPELINE, MANIFEST.artifacts(), (ALICE.public_key.id,))
    assert "key stolen" in caught.value.detail
    assert caught.value.facts == {"revoked": next(iter(next(iter(entries.values())))), "version": 7}
    assert caught.value.fault is Fault.PUBLISHER


def test_an_identity_is_revoked_by_its_names():
    entry = RevokedIdentity(issuer=ROBOT.issuer, subject=ROBOT.subject)
    with pytest.raises(Revoked, match="no reason is given"):
        revocations(identities=(entry,)).check_pipeline(PIPELINE, MANIFEST.artifacts(), (ROBOT.id,))


def test_what_is_not_in_the_list_may_run():
    some = revocations(publishers={BOB.public_key.id: ""}, cids={add_bytes(b"other", put=None): ""})
    some.check_pipeline(PIPELINE, MANIFEST.artifacts(), (ALICE.public_key.id,))
    revocations().check_pipeline(PIPELINE, MANIFEST.artifacts(), (ALICE.public_key.id,))


@pytest.mark.parametrize(
    ("reported", "old"),
    [
        ({"wasmtime": "50.0.0", "onnxruntime": "1.24.4"}, ["wasmtime"]),
        ({"wasmtime": "50.0.1", "onnxruntime": "1.24.4"}, []),
        ({"wasmtime": "50.0.10", "onnxruntime": "1.100"}, []),
        ({"wasmtime": "50.0.1rc1", "onnxruntime": "1.25.0.dev1"}, ["wasmtime"]),
        ({"wasmtime": "50.0.1"}, ["onnxruntime"]),
        ({"wasmtime": "new", "onnxruntime": ""}, ["onnxruntime", "wasmtime"]),
        ({}, ["onnxruntime", "wasmtime"]),
    ],
)
def test_engines_below_the_floor_are_named(reported, old):
    floors = revocations(engines={"wasmtime": "50.0.1", "onnxruntime": "1.24.4"})
    reasons = floors.below_floor(reported)
    assert [reason.removeprefix("the version of ").split()[0] for reason in reasons] == old
    assert revocations().below_floor(reported) == []


def policy(*keys: SigningKey) -> TrustPolicy:
    return TrustPolicy(publishers=tuple(Publisher(name="p", key=key.public_key) for key in keys))


def test_a_policy_enforces_the_list():
    bundle = sign_bytes(BLOCK, ALICE)
    trust = policy(ALICE)
    trust.enforcing(None).check_pipeline(MANIFEST, BLOCK, bundle)
    for entries in (
        {"publishers": {ALICE.public_key.id: ""}},
        {"cids": {PIPELINE: ""}},
        {"cids": {MODEL: ""}},
    ):
        with pytest.raises(Revoked):
            trust.enforcing(revocations(**entries)).check_pipeline(MANIFEST, BLOCK, bundle)
    with pytest.raises(Revoked):
        verify_artifact(b"model", sign_bytes(b"model", ALICE), trust.enforcing(revocations(cids={MODEL: ""})))


def test_a_revoked_key_leaves_the_other_signature():
    both = join_bundles([sign_bytes(BLOCK, ALICE), sign_bytes(BLOCK, BOB)])
    trust = policy(ALICE, BOB).enforcing(revocations(publishers={ALICE.public_key.id: ""}))
    assert trust.check_pipeline(MANIFEST, BLOCK, both).key == BOB.public_key
    with pytest.raises(Revoked):
        trust.check_pipeline(MANIFEST, BLOCK, sign_bytes(BLOCK, ALICE))


def test_equal_lists_are_equal_bytes():
    one, two = ALICE.public_key.id, BOB.public_key.id
    names = [("https://a.example", "x"), ("https://a.example", "y"), ("https://b.example", "a")]
    identities = [RevokedIdentity(issuer=issuer, subject=subject) for issuer, subject in names]
    first = document(publishers={one: "a", two: "b"}, identities=tuple(identities))
    second = document(publishers={two: "b", one: "a"}, identities=tuple(reversed(identities)))
    assert encode_revocations(first) == encode_revocations(second)
    assert decode_revocations(encode_revocations(first)).document.publishers == {one: "a", two: "b"}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data.replace(b'"version"', b' "version"'),
        lambda data: data.replace(b'"version": 1', b'"version": 1.0'),
        lambda data: data.replace(b'"version": 1', b'"version": 0'),
        lambda data: data.replace(b'"version": 1', b'"version": 1, "version": 1'),
        lambda data: data.replace(b'"issued_at": 1', b'"issued_at": 9000'),
        lambda data: data.replace(b"revocations/1", b"revocations/2"),
        lambda data: data.replace(b'"cids"', b'"dics"'),
        lambda data: data.replace(KERNEL.encode(), b"bafy"),
        lambda data: data.replace(b"50.0.1", b"fifty"),
        lambda data: b"\xff" + data,
        lambda _: b"",
        lambda _: b"[" * 100_000,
        lambda _: b" " * (REVOCATIONS_BYTES_MAX + 1),
    ],
)
def test_a_list_has_one_form(change):
    data = encode_revocations(document(cids={KERNEL: ""}, engines={"wasmtime": "50.0.1"}))
    assert change(data) != data
    decode_revocations(data)
    with pytest.raises(InvalidRevocations):
        decode_revocations(change(data))


def test_only_the_operators_signature_counts():
    assert verify_revocations(signed(3), OPERATOR.public_key).version == 3
    with pytest.raises(UntrustedSigner):
        verify_revocations(signed(3, STRANGER), OPERATOR.public_key)
    with pytest.raises(UnsignedArtifact):
        verify_revocations(SignedRevocations(signed().document, ""), OPERATOR.public_key)
    with pytest.raises(InvalidSignature):
        verify_revocations(SignedRevocations(signed(4).document, signed(3).bundle), OPERATOR.public_key)
    with pytest.raises(InvalidRevocations):  # the operator's key may sign other things
        verify_revocations(SignedRevocations(BLOCK, sign_bytes(BLOCK, OPERATOR)), OPERATOR.public_key)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "revocations"


def store(path) -> RevocationStore:
    return RevocationStore(path, OPERATOR.public_key)


def test_before_the_first_list_nothing_is_revoked(path):
    assert store(path).current is None
    assert store(path).version == 0


def test_the_newest_list_is_kept_over_a_restart(path):
    assert store(path).accept(signed(3, cids={PIPELINE: ""}))
    again = store(path)
    assert again.version == 3
    with pytest.raises(Revoked):
        again.current.check_pipeline(PIPELINE, MANIFEST.artifacts(), (ALICE.public_key.id,))


def test_versions_only_rise(path):
    kept = store(path)
    list_2, list_3 = signed(2), signed(3)
    assert kept.accept(list_2)
    assert kept.accept(list_3)
    for late in (list_2, signed(1)):
        with pytest.raises(RevocationRollback) as caught:
            kept.accept(late)
        assert caught.value.facts["enforced"] == 3
    with pytest.raises(RevocationRollback):
        store(path).accept(list_2)
    assert store(path).version == kept.version == 3


def test_the_same_list_again_is_no_news(path):
    kept = store(path)
    assert kept.accept(signed(3))
    assert not kept.accept(signed(3))  # another signature over the same bytes
    with pytest.raises(RevocationRollback):
        kept.accept(signed(3, cids={PIPELINE: ""}))


def test_what_is_not_the_operators_changes_nothing(path):
    kept = store(path)
    kept.accept(signed(3))
    before = path.read_bytes()
    for bad in (signed(4, STRANGER), SignedRevocations(signed(4).document, signed(3).bundle)):
        with pytest.raises(TradepostError):
            kept.accept(bad)
    assert (kept.version, path.read_bytes()) == (3, before)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"document":"","bundle":""}'])
def test_a_damaged_file_is_not_an_empty_list(path, damage):
    store(path).accept(signed(3))
    path.write_bytes(damage)
    with pytest.raises(InvalidRevocations):
        store(path)


def test_a_file_by_somebody_else_is_refused(path):
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(signed(9, STRANGER)))
    with pytest.raises(InvalidRevocations):
        store(path)


def test_a_write_that_fails_leaves_the_list_before(path, monkeypatch):
    kept = store(path)
    kept.accept(signed(3))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="space"):
        kept.accept(signed(4))
    monkeypatch.undo()
    assert (kept.version, store(path).version) == (3, 3)
    assert [entry.name for entry in path.parent.iterdir()] == ["revocations"]


LIST = f"""
version = 4

[publishers]
"{ALICE.public_key.id}" = "its key was stolen"

[[identity]]
issuer = "{ROBOT.issuer}"
subject = "{ROBOT.subject}"
reason = "taken over"

[cids]
"{PIPELINE}" = "crashes devices"

[engines]
wasmtime = "50.0.1"
"""


def test_the_operator_writes_toml():
    made = revocations_from_toml(LIST, issued_at=1_700_000_000)
    assert revocations_from_toml(f"\ufeff{LIST}", issued_at=1_700_000_000) == made, "as some editors save it"
    assert made == document(
        4,
        publishers={ALICE.public_key.id: "its key was stolen"},
        identities=(RevokedIdentity(issuer=ROBOT.issuer, subject=ROBOT.subject, reason="taken over"),),
        cids={PIPELINE: "crashes devices"},
        engines={"wasmtime": "50.0.1"},
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version = 0",
        "version = 1\nunknown = 1",
        'version = 1\n[publishers]\n"alice" = ""',
        'version = 1\n[cids]\n"bafy" = ""',
        'version = 1\n[engines]\nwasmtime = "fifty"',
        'version = 1\n[engines]\nwasmtime = "50.0.1\\n"',
        'version = 1\n[[identities]]\nissuer = "https://ci.example"\nsubject = "x"',
        "version = 1\nissued_at = 1",
        'version = 1\nformat = "another"',
        'version = 1\n[[identity]]\nissuer = "http://plain.example"\nsubject = "x"',
        "version = [",
    ],
)
def test_a_list_that_is_not_understood_is_not_signed(text):
    with pytest.raises(InvalidRevocations):
        revocations_from_toml(text, issued_at=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OPERATOR.save(tmp_path / "operator", passphrase=None)
    STRANGER.save(tmp_path / "stranger", passphrase=None)
    (tmp_path / "list.toml").write_text(LIST)
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["revocations", *arguments])


def test_the_commands_sign_show_and_verify_a_list(folder):
    facts = json.loads(run("sign", "list.toml", "--key", "operator", "--json").stdout)
    assert facts == {
        "revocations": "revocations.json",
        "version": 4,
        "key_id": OPERATOR.public_key.id,
    }
    assert "its key was stolen" in run("show", "revocations.json").stdout
    assert json.loads(run("show", "revocations.json", "--json").stdout)["version"] == 4
    assert run("verify", "revocations.json", "--key", "operator.pub").stdout.startswith("ok")
    shown = json.loads(run("verify", "revocations.json", "--key", "operator.pub", "--json").stdout)
    assert shown["revocations"]["engines"] == {"wasmtime": "50.0.1"}
    assert isinstance(
        run("verify", "revocations.json", "--key", "stranger.pub").exception, InvalidRevocations
    )
    # Another tool's check of the same two files: a bundle over a file's bytes.
    verified = CliRunner().invoke(app, ["verify", "revocations.json", "--key", "operator.pub"])
    assert verified.exit_code == 0


def test_the_command_signs_no_list_that_devices_would_refuse(folder):
    assert run("sign", "list.toml", "--key", "operator").exit_code == 0
    before = (folder / "revocations.json").read_bytes()
    assert isinstance(run("sign", "list.toml", "--key", "operator").exception, RevocationRollback)
    assert isinstance(run("sign", "absent.toml", "--key", "operator").exception, InvalidRevocations)
    assert (folder / "revocations.json").read_bytes() == before
    (folder / "list.toml").write_text(LIST.replace("version = 4", "version = 5"))
    assert isinstance(run("sign", "list.toml", "--key", "stranger").exception, InvalidRevocations)
    assert run("sign", "list.toml", "--key", "operator").stdout == "revocations.json: version 5\n"


def test_an_empty_list_says_so(folder):
    (folder / "list.toml").write_text("version = 1")
    run("sign", "list.toml", "--key", "operator")
    assert "nothing is revoked" in run("show", "revocations.json").stdout
