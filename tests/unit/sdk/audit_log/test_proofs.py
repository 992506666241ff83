"""A proof shows that its receipts are in the broker's log, and that the log extends a kept checkpoint."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutations import mutated_tree
from sample_log import WORKER, SampleLog
from tradepost.audit_log.merkle import leaf_hash
from tradepost.audit_log.proofs import LogProof, verify_proof
from tradepost.errors import (
    InvalidCheckpoint,
    InvalidKeptCheckpoint,
    InvalidProof,
    InvalidReceipt,
    LogRewritten,
)
from tradepost.identity import Identity
from tradepost.receipts import SignedReceipt, sign_receipt, verify_receipt


def sample(before: int = 5, after: int = 9) -> tuple[SampleLog, SignedReceipt]:
    log = SampleLog()
    log.add_events(before)
    signed = log.add_receipt()
    log.add_events(after)
    return log, signed


LOG, RECEIPT = sample()
#: Made once: a signature is another one each time.
PROOF, KEPT = LOG.proof(["job.1"], since=3), LOG.checkpoint(3)


@given(st.integers(0, 600), st.integers(0, 600))
def test_a_receipt_is_found_wherever_it_is(before: int, after: int) -> None:
    log, signed = sample(before, after)
    [found] = verify_proof(log.proof(["job.1"]), [signed])
    assert (found.index, found.checkpoint.size) == (before, before + 1 + after)
    assert found.receipt == verify_receipt(signed)
    assert found.checkpoint.broker == log.broker.id


def test_several_receipts_in_one_proof() -> None:
    log = SampleLog()
    receipts = []
    for attempt in range(3):
        log.add_events(2)
        receipts.append(log.add_receipt(f"job.{attempt}"))
    proof = log.proof(["job.0", "job.1", "job.2"])
    assert [one.index for one in verify_proof(proof, receipts)] == [2, 5, 8]
    with pytest.raises(InvalidProof, match=r"nothing about lease job\.2"):
        verify_proof(log.proof(["job.0", "job.1"]), receipts)


def test_another_receipt_of_the_same_lease_is_not_in_the_log() -> None:
    other = sign_receipt(msgspec.structs.replace(verify_receipt(RECEIPT), expires_at=1), WORKER)
    with pytest.raises(InvalidProof, match="does not have this receipt"):
        verify_proof(LOG.proof(["job.1"]), [other])


def test_a_signature_that_was_made_anew_is_another_receipt() -> None:
    again = sign_receipt(verify_receipt(RECEIPT), WORKER)
    assert again.signature != RECEIPT.signature
    with pytest.raises(InvalidProof, match="does not have this receipt"):
        verify_proof(LOG.proof(["job.1"]), [again])


def test_a_damaged_receipt_is_rejected_as_such() -> None:
    with pytest.raises(InvalidReceipt):
        verify_proof(LOG.proof(["job.1"]), [msgspec.structs.replace(RECEIPT, signature=b"")])


def test_the_log_of_another_broker_proves_nothing() -> None:
    log = SampleLog()
    log.leaves, log.places = list(LOG.leaves), LOG.places
    with pytest.raises(InvalidProof, match="the receipt is for broker"):
        verify_proof(log.proof(["job.1"]), [RECEIPT])
    other_key = Identity.generate().public_key
    with pytest.raises(InvalidCheckpoint):
        verify_proof(msgspec.structs.replace(LOG.proof(["job.1"]), public_key=other_key), [RECEIPT])


def test_another_format_is_rejected() -> None:
    with pytest.raises(InvalidProof, match="tradepost-log-proof/2"):
        verify_proof(msgspec.structs.replace(LOG.proof(["job.1"]), format="tradepost-log-proof/2"), [RECEIPT])


@given(st.data())
def test_a_changed_proof_is_rejected(data: st.DataObject) -> None:
    proof = PROOF
    tree = data.draw(mutated_tree(msgspec.to_builtins(proof)))
    try:
        changed = msgspec.convert(tree, LogProof)
    except msgspec.ValidationError:
        return
    if changed == proof:
        return
    try:
        [found] = verify_proof(changed, [RECEIPT], kept=KEPT)
    except InvalidProof:
        return
    # What it shows is then the same: only what verifiers ignore differs.
    assert (found.index, found.checkpoint.size) == (5, 15)
    assert changed.since == 3
    assert changed.consistency == proof.consistency


@given(st.integers(0, 15))
def test_a_log_extends_every_checkpoint_that_it_published(size: int) -> None:
    verify_proof(LOG.proof(["job.1"], since=size), [RECEIPT], kept=LOG.checkpoint(size))


def test_a_proof_since_another_size_does_not_count() -> None:
    with pytest.raises(InvalidProof, match="shows nothing about that size"):
        verify_proof(LOG.proof(["job.1"], since=4), [RECEIPT], kept=LOG.checkpoint(3))
    with pytest.raises(InvalidProof, match="shows nothing about that size") as raised:
        verify_proof(LOG.proof(["job.1"]), [RECEIPT], kept=LOG.checkpoint(3))
    assert "--since" in raised.value.hint


def test_a_proof_from_before_the_kept_checkpoint_does_not_count() -> None:
    log, signed = sample()
    proof = log.proof(["job.1"])
    log.add_events(1)
    with pytest.raises(InvalidProof, match="is older than the kept one"):
        verify_proof(proof, [signed], kept=log.checkpoint())


@pytest.mark.parametrize("changed", [0, 4, 7])
def test_a_rewritten_log_is_found_out(changed: int) -> None:
    log, signed = sample()
    kept = log.checkpoint(8)
    log.leaves[changed] = leaf_hash(b"rewritten")
    with pytest.raises(LogRewritten):
        verify_proof(log.proof(["job.1"], since=8), [signed], kept=kept)


def test_a_log_of_the_same_size_with_another_root_is_found_out() -> None:
    log, signed = sample()
    kept = log.checkpoint()
    log.leaves[0] = leaf_hash(b"rewritten")
    with pytest.raises(LogRewritten):
        verify_proof(log.proof(["job.1"], since=15), [signed], kept=kept)
    with pytest.raises(LogRewritten):
        verify_proof(log.proof(["job.1"]), [signed], kept=kept)


def test_a_kept_checkpoint_must_be_the_broker_s() -> None:
    other, _ = sample()
    with pytest.raises(InvalidKeptCheckpoint):
        verify_proof(LOG.proof(["job.1"], since=3), [RECEIPT], kept=other.checkpoint(3))
