"""Publishers' keys: made once, never overwritten, encrypted unless asked otherwise."""

import hashlib
import stat

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tradepost.errors import InvalidKey, InvalidSignature
from tradepost.identity import key_id
from tradepost_signing.keys import PublicKey, SigningKey, key_id_of_hint, public_path

PASSPHRASE = b"correct horse battery staple"
DIGEST = hashlib.sha256(b"bytes").digest()


def never() -> bytes:
    raise AssertionError("the passphrase was asked for")


def test_an_encrypted_key_comes_back_with_its_passphrase(tmp_path):
    made = SigningKey.generate()
    made.save(tmp_path / "key", passphrase=PASSPHRASE)
    assert b"ENCRYPTED" in (tmp_path / "key").read_bytes()
    loaded = SigningKey.load(tmp_path / "key", passphrase=lambda: PASSPHRASE)
    assert loaded.public_key == made.public_key
    assert PublicKey.load(tmp_path / "key.pub") == made.public_key


def test_a_wrong_passphrase_is_refused(tmp_path):
    SigningKey.generate().save(tmp_path / "key", passphrase=PASSPHRASE)
    with pytest.raises(InvalidKey, match="passphrase is wrong"):
        SigningKey.load(tmp_path / "key", passphrase=lambda: b"another")


def test_an_unencrypted_key_asks_for_no_passphrase(tmp_path):
    made = SigningKey.generate()
    made.save(tmp_path / "key", passphrase=None)
    assert SigningKey.load(tmp_path / "key", passphrase=never).public_key == made.public_key


def test_only_the_owner_can_read_the_private_key(tmp_path):
    SigningKey.generate().save(tmp_path / "key", passphrase=None)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("existing", ["key", "key.pub"])
def test_no_file_is_overwritten(tmp_path, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(InvalidKey, match="never overwritten"):
        SigningKey.generate().save(tmp_path / "key", passphrase=None)
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_ids_and_hints_name_the_same_digest():
    public = SigningKey.generate().public_key
    assert public.id == key_id(public.der)
    assert key_id_of_hint(public.hint) == public.id
    assert key_id_of_hint(public.directory_hint) is None
    assert key_id_of_hint("") is None


def test_the_signature_is_plain_ecdsa_over_the_bytes():
    key = SigningKey.generate()
    signature = key.sign(hashlib.sha256(b"bytes").digest())
    public = serialization.load_der_public_key(key.public_key.der)
    public.verify(signature, b"bytes", ec.ECDSA(hashes.SHA256()))
    key.public_key.verify(signature, DIGEST)
    with pytest.raises(InvalidSignature):
        SigningKey.generate().public_key.verify(signature, DIGEST)


def test_other_kinds_of_key_are_refused(tmp_path):
    other_curve = ec.generate_private_key(ec.SECP384R1())
    pem = other_curve.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(InvalidKey, match="P-256"):
        PublicKey.from_pem(pem)
    with pytest.raises(InvalidKey, match="P-256"):
        SigningKey(other_curve)
    other_kind = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "rsa").write_bytes(other_kind)
    with pytest.raises(InvalidKey, match="not an ECDSA"):
        SigningKey.load(tmp_path / "rsa", passphrase=never)


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(InvalidKey, match="absent: No such file"):
        SigningKey.load(tmp_path / "absent", passphrase=never)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InvalidKey, match="text"):
        SigningKey.load(tmp_path / "text", passphrase=never)
    with pytest.raises(InvalidKey, match="text"):
        PublicKey.load(tmp_path / "text")
    (tmp_path / "large").write_bytes(bytes(20_000))
    with pytest.raises(InvalidKey, match="too large for a key"):
        PublicKey.load(tmp_path / "large")


def test_a_private_key_given_for_a_public_one_points_at_the_right_file(tmp_path):
    SigningKey.generate().save(tmp_path / "key", passphrase=None)
    with pytest.raises(InvalidKey) as caught:
        PublicKey.load(tmp_path / "key")
    assert str(public_path(tmp_path / "key")) in caught.value.hint


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_a_key_as_openssl_writes_it_is_read(tmp_path, passphrase):
    """SEC1, whose encryption stands in headers below the label."""
    made = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    form = serialization.PrivateFormat.TraditionalOpenSSL
    (tmp_path / "key").write_bytes(made.private_bytes(serialization.Encoding.PEM, form, encryption))
    loaded = SigningKey.load(tmp_path / "key", passphrase=never if passphrase is None else lambda: PASSPHRASE)
    assert loaded.public_key == SigningKey(made).public_key
    if passphrase is not None:
        with pytest.raises(InvalidKey, match="passphrase is wrong"):
            SigningKey.load(tmp_path / "key", passphrase=lambda: b"another")


@pytest.mark.parametrize("kind", ["SIGSTORE", "COSIGN"])
def test_a_key_that_cosign_encrypted_is_named_as_such(tmp_path, kind):
    label = f"ENCRYPTED {kind} PRIVATE KEY"
    (tmp_path / "cosign.key").write_text(
        f"-----BEGIN {label}-----\neyJrZGYiOnt9fQ==\n-----END {label}-----\n"
    )
    with pytest.raises(InvalidKey, match="only cosign reads") as caught:
        SigningKey.load(tmp_path / "cosign.key", passphrase=never)
    assert "cosign import-key-pair" in str(caught.value.hint)
