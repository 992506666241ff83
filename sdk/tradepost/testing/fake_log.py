"""A broker's audit log in memory, with the proofs that a broker gives."""

from __future__ import annotations

from collections.abc import Iterable

from tradepost.audit_log.checkpoint import Checkpoint
from tradepost.audit_log.entries import commitment, entry, receipt_entry
from tradepost.audit_log.merkle import consistency_path, inclusion_path, leaf_hash, root_of
from tradepost.audit_log.proofs import LoggedReceipt, LogProof
from tradepost.identity import Identity
from tradepost.receipts import SignedReceipt


class FakeLog:
    """A log that only grows, of `broker`. Entry number `n` has the nonce `n`, so it hides nothing."""

    def __init__(self, broker: Identity) -> None:
        self.broker = broker
        #: The hashes of the leaves.
        self.leaves: list[bytes] = []
        #: The numbers of the entries that are receipts, by lease.
        self.places: dict[str, int] = {}

    def add_events(self, count: int) -> None:
        """Append entries that are no receipts."""
        for _ in range(count):
            self._append(entry("event", len(self.leaves)))

    def add(self, lease: str, receipt: SignedReceipt) -> None:
        """Append the receipt of a lease."""
        self.places[lease] = len(self.leaves)
        self._append(receipt_entry(lease, receipt))

    def checkpoint(self, size: int | None = None) -> str:
        """The signed checkpoint of the log, or of its first `size` entries."""
        size = len(self.leaves) if size is None else size
        return Checkpoint(self.broker.id, size, root_of(self.leaves[:size])).signed(self.broker)

    def proof(self, leases: Iterable[str], *, since: int | None = None) -> LogProof:
        """A proof that the log has the receipts of these leases."""
        size = len(self.leaves)
        return LogProof(
            checkpoint=self.checkpoint(),
            public_key=self.broker.public_key,
            receipts=tuple(
                LoggedReceipt(
                    lease=lease,
                    index=self.places[lease],
                    nonce=_nonce(self.places[lease]),
                    path=inclusion_path(self.places[lease], size, self._node),
                )
                for lease in leases
            ),
            since=since,
            consistency=() if since is None else consistency_path(since, size, self._node),
        )

    def _append(self, logged: bytes) -> None:
        self.leaves.append(leaf_hash(commitment(logged, _nonce(len(self.leaves)))))

    def _node(self, height: int, index: int) -> bytes:
        return root_of(self.leaves[index << height : (index + 1) << height])


def _nonce(index: int) -> bytes:
    return index.to_bytes(16, "big")
