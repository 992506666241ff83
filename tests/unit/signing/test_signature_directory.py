"""A directory's signature holds for exactly its files, and names those that differ."""

import base64
import json
import os

import pytest

from tradepost.content import add_bytes
from tradepost.errors import (
    InvalidArtifact,
    InvalidBundle,
    InvalidSignature,
    UnsignedArtifact,
    UntrustedSigner,
)
from tradepost_signing.bundles.bundle import sign_bytes, sign_file
from tradepost_signing.bundles.statement import (
    decode_statement,
    encode_statement,
    pre_authentication_encoding,
)
from tradepost_signing.checks.signature_directory import sign_directory, verify_directory
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.trust import TrustPolicy

KEY = SigningKey.generate()
TRUST = TrustPolicy.of_key(KEY.public_key, name="alice")


@pytest.fixture
def model(tmp_path):
    directory = tmp_path / "model"
    (directory / "weights").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "weights" / "0.bin").write_bytes(b"zero")
    (directory / "weights" / "größe.bin").write_bytes(b"one")
    (directory / ".gitignore").write_text("model.sig")
    return directory


def sign(directory) -> str:
    text = sign_directory(directory, KEY, signature=directory / "model.sig")
    (directory / "model.sig").write_text(text)
    return text


def verify(directory, text, trust=TRUST):
    return verify_directory(directory, text, trust, signature=directory / "model.sig")


def test_the_files_and_the_publisher_are_established(model):
    verified = verify(model, sign(model))
    assert verified.publisher.name == "alice"
    assert verified.files == ("config.json", "weights/0.bin", "weights/größe.bin")


def test_a_moved_and_renamed_directory_still_verifies(model, tmp_path):
    text = sign(model)
    verify(model.rename(tmp_path / "renamed"), text)


def test_a_changed_byte_names_the_file(model):
    text = sign(model)
    (model / "weights" / "0.bin").write_bytes(b"zerO")
    with pytest.raises(InvalidSignature, match=r"changed: weights/0\.bin$"):
        verify(model, text)


def test_missing_and_added_files_are_named(model):
    text = sign(model)
    (model / "config.json").unlink()
    (model / "weights" / "new").touch()
    (model / "late").mkdir()
    (model / "late" / "file").touch()
    with pytest.raises(InvalidSignature) as caught:
        verify(model, text)
    assert caught.value.detail == "missing: config.json; not signed: late/file, weights/new"
    assert caught.value.facts == {
        "changed": [],
        "missing": ["config.json"],
        "added": ["late/file", "weights/new"],
    }


def test_many_differences_are_named_in_one_line(model):
    text = sign(model)
    for number in range(20):
        (model / f"{number:02}").touch()
    with pytest.raises(InvalidSignature, match=r"not signed: 00, .*07 and more$"):
        verify(model, text)


def test_links_and_special_files_are_refused(model):
    text = sign(model)
    (model / "link").symlink_to(model / "config.json")
    with pytest.raises(InvalidArtifact, match="link"):
        sign(model)
    with pytest.raises(InvalidSignature, match="link"):
        verify(model, text)
    (model / "link").unlink()
    os.mkfifo(model / "pipe")
    with pytest.raises(InvalidSignature, match="pipe"):
        verify(model, text)


def test_a_file_replaced_by_a_link_to_equal_bytes_is_refused(model, tmp_path):
    text = sign(model)
    (model / "config.json").rename(tmp_path / "elsewhere")
    (model / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidSignature):
        verify(model, text)


def test_nothing_is_not_signed(tmp_path):
    (tmp_path / ".gitignore").touch()
    with pytest.raises(InvalidArtifact, match="no files"):
        sign(tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    try:
        os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(InvalidArtifact, match="UTF-8"):
        sign(tmp_path)


def test_who_is_not_trusted_is_refused(model):
    text = sign(model)
    with pytest.raises(UntrustedSigner):
        verify(model, text, TrustPolicy())
    for denied in (KEY.public_key.id, add_bytes(b"zero", put=None)):
        with pytest.raises(UntrustedSigner):
            verify(model, text, TrustPolicy(publishers=TRUST.publishers, deny=frozenset({denied})))


def test_no_signature_and_a_files_signature_are_refused(model):
    with pytest.raises(UnsignedArtifact):
        verify(model, "")
    with pytest.raises(InvalidBundle, match="a file"):
        verify(model, sign_bytes(b"x", KEY))


def edited(text: str, **changes) -> str:
    tree = json.loads(text)
    tree["dsseEnvelope"] |= changes
    return json.dumps(tree)


def test_the_envelope_holds_one_signed_statement(model):
    text = sign(model)
    envelope = json.loads(text)["dsseEnvelope"]
    with pytest.raises(InvalidBundle, match="2 signatures"):
        verify(model, edited(text, signatures=envelope["signatures"] * 2))
    with pytest.raises(InvalidBundle, match="0 signatures"):
        verify(model, edited(text, signatures=[]))
    with pytest.raises(InvalidBundle, match="in-toto"):
        verify(model, edited(text, payloadType="text/plain"))
    other = base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"config", b"konfig")).decode()
    with pytest.raises(InvalidSignature):
        verify(model, edited(text, payload=other))


STATEMENT = json.loads(encode_statement("model", {"a": "00" * 32, "b/c": "11" * 32}, ["model.sig"]))


def test_a_statement_says_what_was_written():
    listed = decode_statement(json.dumps(STATEMENT).encode())
    assert listed.files == {"a": "00" * 32, "b/c": "11" * 32}
    assert listed.ignored == ("model.sig",)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1"),
        (("_type",), None),
        (("predicateType",), "https://model_signing/Digests/v0.1"),
        (("subject",), []),
        (("subject", 0, "digest", "sha256"), "00" * 32),
        (("predicate", "resources"), []),
        (("predicate", "resources", 1, "name"), "a"),
        (("predicate", "resources", 1, "algorithm"), "blake3"),
        (("predicate", "resources", 1, "digest"), "11" * 31),
        (("predicate", "serialization", "method"), "shards"),
        (("predicate", "serialization", "hash_type"), "blake2b"),
        (("predicate", "serialization", "ignore_paths"), ["."]),
        (("predicate", "serialization", "ignore_paths"), [""]),
        (("predicate", "serialization", "ignore_paths"), ["../x"]),
        (("predicate", "serialization", "ignore_paths"), ["/"]),
    ],
)
def test_a_statement_that_is_not_understood_is_refused(path, value):
    tree = json.loads(json.dumps(STATEMENT))
    target = tree
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    with pytest.raises(InvalidBundle):
        decode_statement(json.dumps(tree).encode())


def test_a_required_member_may_not_be_absent():
    for member in STATEMENT:
        tree = {name: value for name, value in STATEMENT.items() if name != member}
        with pytest.raises(InvalidBundle):
            decode_statement(json.dumps(tree).encode())


def test_a_bundle_without_a_hint_names_nobody(model):
    tree = json.loads(sign(model))
    tree["verificationMaterial"]["publicKey"]["hint"] = ""
    with pytest.raises(InvalidBundle, match="name"):
        verify(model, json.dumps(tree))


def test_what_the_signature_leaves_out_is_told(model):
    """Anybody may have put it there: a hook that git runs, or a model."""
    text = sign(model)
    assert verify(model, text).left_out == (".gitignore",)
    (model / ".git" / "hooks").mkdir(parents=True)
    (model / ".git" / "hooks" / "pre-commit").write_text("anything")
    (model / ".github").symlink_to("nowhere")
    assert verify(model, text).left_out == (".git", ".github", ".gitignore")


def test_a_files_signature_is_no_directorys(model, tmp_path):
    """A stranger's file may be the very bytes that a directory's signature is over."""
    statement = encode_statement("model", {"weights": "0" * 64}, [])
    tempting = tmp_path / "tempting"
    tempting.write_bytes(pre_authentication_encoding(statement))
    with pytest.raises(InvalidArtifact, match="signature over a directory"):
        sign_bytes(tempting.read_bytes(), KEY)
    with pytest.raises(InvalidArtifact, match="signature over a directory"):
        sign_file(tempting, KEY)
