"""A checkpoint has one spelling, and only the broker whose log it is of can sign it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutations import mutated
from tradepost.audit_log.checkpoint import Checkpoint, origin_of, verifier_key, verify_checkpoint
from tradepost.audit_log.merkle import EMPTY_ROOT, leaf_hash
from tradepost.errors import InvalidCheckpoint, InvalidSignature
from tradepost.identity import Identity, verify

BROKER = Identity.generate()
OTHER = Identity.generate()
CHECKPOINT = Checkpoint(BROKER.id, 17, leaf_hash(b"root"))
NOTE = CHECKPOINT.signed(BROKER)


def test_it_is_a_signed_note() -> None:
    text, signatures = NOTE.split("\n\n")
    assert f"{text}\n" == CHECKPOINT.text
    assert text.split("\n") == [
        f"tradepost/log-{BROKER.id}/1", "17", base64.b64encode(leaf_hash(b"root")).decode()
    ]  # fmt: skip
    assert signatures.startswith(f"— {origin_of(BROKER.id)} ")
    assert signatures.endswith("\n")
    assert signatures.count("\n") == 1


@given(st.integers(0, (1 << 63) - 1), st.binary(min_size=32, max_size=32))
def test_what_is_signed_is_verified(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(BROKER.id, size, root)
    assert verify_checkpoint(checkpoint.signed(BROKER), BROKER.public_key) == checkpoint


def test_other_keys_verify_nothing() -> None:
    with pytest.raises(InvalidCheckpoint, match="it is of the log of"):
        verify_checkpoint(NOTE, OTHER.public_key)


def test_another_broker_cannot_sign_for_this_log() -> None:
    forged = Checkpoint(BROKER.id, 18, EMPTY_ROOT)
    with pytest.raises(InvalidCheckpoint, match="no signature by"):
        verify_checkpoint(forged.signed(OTHER), BROKER.public_key)
    own_key_id = forged.signed(BROKER).rsplit(" ", 1)[1][:5]
    other_signature = forged.signed(OTHER).rsplit(" ", 1)
    mixed = f"{other_signature[0]} {own_key_id}{other_signature[1][5:]}"
    with pytest.raises(InvalidCheckpoint):
        verify_checkpoint(mixed, BROKER.public_key)


def test_signatures_by_others_are_ignored_beside_the_broker_s() -> None:
    cosigned = NOTE + CHECKPOINT.signed(OTHER).split("\n\n")[1]
    assert verify_checkpoint(cosigned, BROKER.public_key) == CHECKPOINT


def test_a_false_signature_beside_a_valid_one_is_rejected() -> None:
    false = Checkpoint(BROKER.id, 18, EMPTY_ROOT).signed(BROKER).split("\n\n")[1]
    with pytest.raises(InvalidCheckpoint, match="was not made by"):
        verify_checkpoint(NOTE + false, BROKER.public_key)


@given(st.data())
def test_a_changed_note_is_rejected(data: st.DataObject) -> None:
    changed = data.draw(mutated(NOTE.encode())).decode(errors="replace")
    if changed == NOTE:
        return
    try:
        assert verify_checkpoint(changed, BROKER.public_key) == CHECKPOINT
    except InvalidCheckpoint:
        return
    # Only what nobody signed, and verifiers ignore, may differ: lines of other keys.
    assert changed.startswith(CHECKPOINT.text)


@pytest.mark.parametrize(
    "text",
    [
        f"{origin_of(BROKER.id)}\n017\n{base64.b64encode(EMPTY_ROOT).decode()}\n",
        f"{origin_of(BROKER.id)}\n-1\n{base64.b64encode(EMPTY_ROOT).decode()}\n",
        f"{origin_of(BROKER.id)}\n17\n{base64.b64encode(EMPTY_ROOT[1:]).decode()}\n",
        f"{origin_of(BROKER.id)}\n17\n{base64.b64encode(EMPTY_ROOT).decode()}\nextension\n",
        f"{origin_of(BROKER.id)}\n17\n",
        f"example.com/log\n17\n{base64.b64encode(EMPTY_ROOT).decode()}\n",
        "\n",
    ],
    ids=["zeros", "negative", "short root", "more lines", "no root", "other origin", "empty"],
)
def test_a_text_that_is_no_checkpoint_is_rejected(text: str) -> None:
    signatures = NOTE.split("\n\n")[1]
    with pytest.raises(InvalidCheckpoint):
        verify_checkpoint(f"{text}\n{signatures}", BROKER.public_key)


@pytest.mark.parametrize("note", ["", "\n\n", NOTE[:-1], NOTE.split("\n\n")[0], NOTE * 200, "\0" + NOTE])
def test_what_is_no_signed_note_is_rejected(note: str) -> None:
    with pytest.raises(InvalidCheckpoint):
        verify_checkpoint(note, BROKER.public_key)


def test_a_checkpoint_s_signature_serves_no_other_purpose() -> None:
    signature = base64.b64decode(NOTE.rsplit(" ", 1)[1])[4:]
    for domain in ("receipt", "join", "log"):
        with pytest.raises(InvalidSignature):
            verify(BROKER.public_key, domain, CHECKPOINT.text.encode(), signature)
    body = CHECKPOINT.text.partition("\n")[2].encode()
    verify(BROKER.public_key, f"log-{BROKER.id}", body, signature)


def test_the_verifier_key_has_name_id_and_key() -> None:
    name, key_id, key = verifier_key(BROKER.public_key).split("+", 2)
    assert name == origin_of(BROKER.id)
    assert base64.b64decode(key) == b"\x02" + BROKER.public_key
    assert base64.b64decode(NOTE.rsplit(" ", 1)[1])[:4].hex() == key_id
