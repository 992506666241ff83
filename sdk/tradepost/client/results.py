"""The result for a submitter: outputs, price and receipts, checked before they are returned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from tradepost.content import add_bytes
from tradepost.errors import InvalidReceipt, OtherInput, ProtocolError, TradepostError
from tradepost.money import to_credits, with_unit
from tradepost.pipeline.tensors import NamedTensors, Tensor, decode, describe_tensors
from tradepost.protocol import JobStatus, JobView, Verification
from tradepost.receipts import Returned, SignedReceipt, verify_receipt


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result(NamedTensors):
    """An accepted result: a read-only mapping of its tensors, which can be pickled.

    `document` is the output as the exact bytes that the receipts commit to; `tensors` and `metadata` are it
    decoded. `price` is in credits, at most the cap. `receipts` are those of the workers that agreed on it;
    each can be verified offline, by anyone. `seconds` is from submission to acceptance, broker's clock.
    `corrected_at` is when an earlier result of the job was withdrawn (Unix seconds, broker's clock).
    """

    job: str
    document: bytes
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    price: Decimal
    receipts: tuple[SignedReceipt, ...]
    verification: Verification
    seconds: float
    corrected_at: float | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self.job)

    def __repr__(self) -> str:
        return f"<Result of job {self.job}: {describe_tensors(self.tensors)}; {with_unit(self.price)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy reads the document again: arrays would come back writable, and be a second copy of it.
        return _restore, (self._facts(),)

    def _facts(self) -> dict[str, Any]:
        """All fields but the tensors and metadata, which are those of the document."""
        names = [one.name for one in fields(self) if one.name not in ("tensors", "metadata")]
        return {name: getattr(self, name) for name in names}


def _restore(facts: dict[str, Any]) -> Result:
    document = decode(facts["document"])
    return Result(tensors=document.tensors, metadata=document.metadata, **facts)


def check_result(
    view: JobView,
    output: bytes,
    *,
    pipeline: str,
    input_cid: str | None,
    is_input_claimed: bool = False,
) -> Result:
    """The result in `view`, whose output document is `output`, once these steps have passed.

    1. The job was accepted, with a verification and at least one receipt.
    2. Every receipt verifies, and is about this job, this pipeline and this input; without `input_cid`,
       about the input that the first one names.
    3. One of them commits to exactly the bytes in `output`.

    Raises `InvalidReceipt` or `ProtocolError`; a broker cannot make up a result without a worker's key. With
    `is_input_claimed`, the program named the input, and may be mistaken: another one raises `OtherInput`.
    """
    # Step 1
    if view.status is not JobStatus.ACCEPTED or view.verification is None or view.finished_at is None:
        raise ProtocolError(f"job {view.job} is {view.status.value}, which has no result")
    # Step 2
    receipts = [verify_receipt(signed) for signed in view.receipts]
    if input_cid is None and receipts:
        input_cid = receipts[0].input
    for receipt in receipts:
        _check_subject(receipt.job, view.job, "job", of=view.job)
        _check_subject(receipt.pipeline, pipeline, "pipeline", of=view.job)
        error = OtherInput if is_input_claimed else InvalidReceipt
        _check_subject(receipt.input, str(input_cid), "input", of=view.job, error=error)
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
        corrected_at=view.verdict_changed_at,
    )


def _check_subject(
    named: str, expected: str, what: str, *, of: str, error: type[InvalidReceipt] = InvalidReceipt
) -> None:
    if named != expected:
        raise error(f"the receipt for job {of} is about {what} {named}, not about {what} {expected}")


def error_of(view: JobView) -> TradepostError:
    """The typed error with which a job ended that has no result. It has the job, price and receipts."""
    if view.problem is None:
        error: TradepostError = ProtocolError(f"job {view.job} ended as {view.status.value} without a reason")
    else:
        error = TradepostError.from_problem(view.problem)
    error.job = view.job
    error.price = to_credits(view.price_microcredits)
    error.receipts = view.receipts
    error.facts = {**error.facts, "job": view.job, "price_microcredits": view.price_microcredits}
    return error
