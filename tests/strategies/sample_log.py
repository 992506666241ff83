"""A broker's audit log in memory: receipts among other entries, with the proofs that a broker gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tradepost.audit_log.checkpoint import Checkpoint
from tradepost.audit_log.entries import commitment, entry, receipt_entry
from tradepost.audit_log.merkle import (
    consistency_path,
    inclusion_path,
    leaf_hash,
    root_of,
)
from tradepost.audit_log.proofs import LoggedReceipt, LogProof
from tradepost.content import cid_of_block
from tradepost.identity import Identity
from tradepost.receipts import Receipt, Returned, SignedReceipt, StageReport, sign_receipt

WORKER: Final = Identity.generate()


@dataclass
class SampleLog:
    """A log that tests append to. Entry number `n` has the nonce `n` in 16 bytes."""

    broker: Identity = field(default_factory=Identity.generate)
    leaves: list[bytes] = field(default_factory=list)
    #: The entries that are receipts, by lease.
    places: dict[str, int] = field(default_factory=dict)

    def add_events(self, count: int) -> None:
        """Append entries that are no receipts."""
        for _ in range(count):
            self._append(entry("event", len(self.leaves)))

    def add_receipt(self, lease: str = "job.1") -> SignedReceipt:
        """Append a valid receipt."""
        signed = sign_receipt(
            Receipt(
                broker=self.broker.id,
                job=lease.partition(".")[0],
                lease=lease,
                attempt=1,
                worker=WORKER.id,
                pipeline="pipeline",
                input="input",
                outcome=Returned(output=cid_of_block(b"output", "raw"), output_bytes=6),
                stages=(StageReport(stage="k", output="0" * 64, fuel=7),),
                engines={},
                nonce=b"0123456789abcdef",
                expires_at=1_800_000_000,
            ),
            WORKER,
        )
        self.places[lease] = len(self.leaves)
        self._append(receipt_entry(lease, signed))
        return signed

    def checkpoint(self, size: int | None = None) -> str:
        """The signed checkpoint of the log, or of its first `size` entries."""
        size = len(self.leaves) if size is None else size
        return Checkpoint(self.broker.id, size, root_of(self.leaves[:size])).signed(self.broker)

    def proof(self, *leases: str, since: int | None = None) -> LogProof:
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
