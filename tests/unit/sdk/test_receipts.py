"""Receipts and identities: what is signed cannot be changed, reused elsewhere, or claimed by another."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tradepost import identity
from tradepost.content import cid_of_block
from tradepost.errors import InvalidKey, InvalidReceipt, InvalidSignature
from tradepost.identity import Identity
from tradepost.receipts import (
    Receipt,
    Returned,
    SignedReceipt,
    StageReport,
    are_first_stages,
    is_stage_failure,
    sign_receipt,
    verify_receipt,
)

WORKER = Identity.generate()
OUTPUT = cid_of_block(b"output", "raw")


def make(**changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "broker": "broker",
        "job": "job",
        "lease": "job.1",
        "attempt": 1,
        "worker": WORKER.id,
        "pipeline": "pipeline",
        "input": "input",
        "outcome": Returned(output=OUTPUT, output_bytes=6),
        "stages": (StageReport(stage="k", output="0" * 64, fuel=7),),
        "engines": {"wasmtime": "50.0.1"},
        "nonce": b"0123456789abcdef",
        "expires_at": 1_800_000_000,
    }
    return Receipt(**(fields | changes))


SIGNED = sign_receipt(make(), WORKER)


def test_a_receipt_verifies_to_what_was_signed() -> None:
    assert verify_receipt(sign_receipt(make(), WORKER)) == make()


@given(st.sampled_from(["payload", "public_key", "signature"]), st.data())
def test_no_changed_byte_is_accepted(part: str, data: st.DataObject) -> None:
    damaged = bytearray(getattr(SIGNED, part))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidReceipt):
        verify_receipt(msgspec.structs.replace(SIGNED, **{part: bytes(damaged)}))


def test_another_workers_name_is_refused() -> None:
    with pytest.raises(InvalidReceipt, match="another key signed it"):
        verify_receipt(sign_receipt(make(worker="somebody"), WORKER))


def test_another_format_is_refused() -> None:
    with pytest.raises(InvalidReceipt, match="tradepost-receipt/9"):
        verify_receipt(sign_receipt(make(format="tradepost-receipt/9"), WORKER))


def test_a_second_encoding_is_refused() -> None:
    payload = sign_receipt(make(), WORKER).payload + b" "
    signed = SignedReceipt(
        payload=payload, public_key=WORKER.public_key, signature=WORKER.sign("receipt", payload)
    )
    with pytest.raises(InvalidReceipt, match="canonical"):
        verify_receipt(signed)


def test_text_that_is_not_utf8_is_refused() -> None:
    payload = b"\x81\xa6format\xa1\xff"
    signed = SignedReceipt(
        payload=payload, public_key=WORKER.public_key, signature=WORKER.sign("receipt", payload)
    )
    with pytest.raises(InvalidReceipt):
        verify_receipt(signed)


def test_a_signature_for_another_purpose_is_refused() -> None:
    payload = sign_receipt(make(), WORKER).payload
    signed = SignedReceipt(
        payload=payload, public_key=WORKER.public_key, signature=WORKER.sign("hello", payload)
    )
    with pytest.raises(InvalidReceipt):
        verify_receipt(signed)


@pytest.mark.process
def test_openssl_verifies_a_receipt(tmp_path: Path) -> None:
    signed = sign_receipt(make(), WORKER)
    (tmp_path / "signed").write_bytes(b"tradepost/receipt/1\n" + signed.payload)
    (tmp_path / "signature").write_bytes(signed.signature)
    key = serialization.load_der_public_key(signed.public_key)
    (tmp_path / "key.pem").write_bytes(
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "signed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Verified OK", done.stderr


def test_an_identity_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity.pem"
    made = Identity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Identity.load_or_create(path).id == made.id
    assert len(made.id) == 52


def test_other_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("noise")
    with pytest.raises(InvalidKey):
        Identity.load(tmp_path / "noise")
    with pytest.raises(InvalidKey, match="P-256"):
        Identity(ec.generate_private_key(ec.SECP384R1()))
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    der = other.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(InvalidKey):
        identity.verify(der, "hello", b"", b"")
    with pytest.raises(InvalidSignature):
        identity.verify(WORKER.public_key, "hello", b"payload", b"noise")


@pytest.mark.parametrize(
    ("reported", "are_first"),
    [("", True), ("a", True), ("ab", True), ("abc", True), ("b", False), ("ba", False), ("abcc", False)],
)
def test_reports_are_of_the_first_stages_in_their_order(reported: str, are_first: bool) -> None:
    reports = [StageReport(stage=name, output="0" * 64) for name in reported]
    assert are_first_stages(iter(reports), ("a", "b", "c")) is are_first


@pytest.mark.parametrize(
    ("stage", "code", "is_one"),
    [
        ("a", "kernel-trap", True),
        ("a", "stage-failure", True),
        ("a", "invalid-model", True),
        ("b", "kernel-trap", False),
        (None, "kernel-trap", False),
        ("a", "runner-failed", False),  # another device may do better
        ("a", "invalid-pipeline", False),
    ],
)
def test_a_stage_fails_with_what_is_the_same_on_every_device(
    stage: str | None, code: str, is_one: bool
) -> None:
    assert is_stage_failure(stage, code, {"a"}) is is_one
