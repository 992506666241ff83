"""Random choices from an event's seed. The same seed and purpose give the same choice, for replays.

A seed has 128 bits from the shell's secure random source. Each choice hashes it with the purpose, so that
choices are independent and none reveals another: a worker that sees its nonce learns nothing about audits.
"""

from __future__ import annotations

import hashlib

SEED_BITS = 128
NONCE_BYTES = 16


def fraction(seed: int, *purpose: str) -> float:
    """A number in [0, 1), uniform."""
    return (_hash(seed, purpose, 8) >> 11) / (1 << 53)


def below(limit: int, seed: int, *purpose: str) -> int:
    """An integer in [0, limit). The bias is below limit / 2**64."""
    return _hash(seed, purpose, 8) % limit


def nonce(seed: int, lease: str) -> bytes:
    """The 16 bytes that a lease's receipt must carry, which nobody can guess."""
    return _hash(seed, ("nonce", lease), NONCE_BYTES).to_bytes(NONCE_BYTES, "big")


def _hash(seed: int, purpose: tuple[str, ...], size: int) -> int:
    text = "\x00".join(purpose).encode()
    digest = hashlib.sha256(seed.to_bytes(SEED_BITS // 8, "big") + text).digest()
    return int.from_bytes(digest[:size], "big")
