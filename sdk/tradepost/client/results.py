"""The result for a submitter: outputs, price and receipts, checked before they are returned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from tradepost.content import add_bytes
from tradepost.errors import InvalidReceipt, ProtocolError, TradepostError
from tradepost.money import to_credits
from tradepost.pipeline.tensors import Tensor, decode
from tradepost.protocol import JobStatus, JobView, Verification
from tradepost.receipts import Receipt, Returned, SignedReceipt, verify_receipt


@dataclass(frozen=True, kw_only=True)
class Result:
    """An accepted result.

    `document` is the output as the exact bytes that the receipts commit to; `tensors` and `metadata` are it
    decoded. `price` is in credits, at most the cap. `receipts` are those of the workers that agreed on it;
    each can be verified offline, by anyone. `seconds` is from submission to acceptance, broker's clock.
    """

    job: str
    document: bytes
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    price: Decimal
    receipts: tuple[SignedReceipt, ...]
    verification: Verification
    seconds: float

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


def check_result(view: JobView, output: bytes, *, pipeline: str, input_cid: str) -> Result:
    """The result in `view`, whose output document is `output`, once these steps have passed.

    1. The job was accepted, with a verification and at least one receipt.
    2. Every receipt verifies, and is about this job, this pipeline and this input.
    3. One of them commits to exactly the bytes in `output`.

    Raises `InvalidReceipt` or `ProtocolError`; a broker cannot make up a result without a worker's key.
    """
    # Step 1
    if view.status is not JobStatus.ACCEPTED or view.verification is None or view.finished_at is None:
        raise ProtocolError(f"job {view.job} is {view.status.value}, which has no result")
    # Step 2
    receipts = [_check_receipt(signed, view, pipeline, input_cid) for signed in view.receipts]
    # Step 3
    output_cid = add_bytes(output, put=None)
    if not any(isinstance(r.outcome, Returned) and r.outcome.output == output_cid for r in receipts):
        raise InvalidReceipt(f"job {view.job} has no receipt for its output {output_cid}")
    document = decode(output)
    return Result(
        job=view.job,
        document=output,
        tensors=document.tensors,
        metadata=document.metadata,
        price=to_credits(view.price_microcredits),
        receipts=view.receipts,
        verification=view.verification,
        seconds=view.finished_at - view.submitted_at,
    )


def error_of(view: JobView) -> TradepostError:
    """The typed error with which a job ended that has no result."""
    if view.problem is None:
        return ProtocolError(f"job {view.job} ended as {view.status.value} without a reason")
    return TradepostError.from_problem(view.problem)


def _check_receipt(signed: SignedReceipt, view: JobView, pipeline: str, input_cid: str) -> Receipt:
    receipt = verify_receipt(signed)
    if (receipt.job, receipt.pipeline, receipt.input) != (view.job, pipeline, input_cid):
        raise InvalidReceipt(f"the broker sent a receipt of job {receipt.job} for job {view.job}")
    return receipt
