"""sigstore's verifier of checkpoints, which reads those of its own logs, verifies those of a broker."""

from __future__ import annotations

import base64

import pytest
from sigstore._internal.rekor.checkpoint import SignedCheckpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore.errors import VerificationError
from sigstore_models.common import v1

from tradepost.audit_log.checkpoint import Checkpoint, origin_of
from tradepost.audit_log.merkle import leaf_hash
from tradepost.identity import Identity

BROKER = Identity.generate()
CHECKPOINT = Checkpoint(BROKER.id, 70_000, leaf_hash(b"root"))


def keyring_of(broker: Identity) -> Keyring:
    key = v1.PublicKey(
        raw_bytes=base64.b64encode(broker.public_key),
        key_details=v1.PublicKeyDetails.PKIX_ECDSA_P256_SHA_256,
    )
    return Keyring([key])


def verify(note: str, broker: Identity) -> SignedCheckpoint:
    keyring = keyring_of(broker)
    [key_id] = keyring._keyring
    checkpoint = SignedCheckpoint.from_text(note)
    checkpoint.signed_note.verify(RekorKeyring(keyring), key_id)
    return checkpoint


def test_sigstore_verifies_a_checkpoint_of_a_broker() -> None:
    verified = verify(CHECKPOINT.signed(BROKER), BROKER).checkpoint
    assert verified.origin == origin_of(BROKER.id)
    assert (verified.log_size, verified.log_hash) == (70_000, leaf_hash(b"root").hex())
    assert verified.other_content == []


def test_sigstore_rejects_another_key_and_another_text() -> None:
    with pytest.raises(VerificationError):
        verify(CHECKPOINT.signed(BROKER), Identity.generate())
    with pytest.raises(VerificationError):
        verify(CHECKPOINT.signed(BROKER).replace("70000", "70001"), BROKER)
