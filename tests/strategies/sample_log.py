"""A fake broker's audit log that makes its own receipts."""

from __future__ import annotations

from typing import Final

from tradepost.content import cid_of_block
from tradepost.identity import Identity
from tradepost.receipts import Receipt, Returned, SignedReceipt, StageReport, sign_receipt
from tradepost.testing.fake_log import FakeLog

WORKER: Final = Identity.generate()


class SampleLog(FakeLog):
    """A log that tests append to."""

    def __init__(self) -> None:
        super().__init__(Identity.generate())

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
        self.add(lease, signed)
        return signed
