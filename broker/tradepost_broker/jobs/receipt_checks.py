"""From a worker's frame to an event: every check of a receipt, and the comparison with other results.

A receipt is checked when it arrives. Outcomes are compared when its turn comes, since two results of one job
may arrive together and each must be compared with the one before it.
"""

from __future__ import annotations

from typing import Final

from tradepost.content import add_bytes
from tradepost.errors import (
    InvalidReceipt,
    InvalidTensorDocument,
    LeaseGone,
    Problem,
    StageFailure,
    TradepostError,
)
from tradepost.pipeline.manifest import Manifest, Tolerance
from tradepost.pipeline.tensors import decode
from tradepost.protocol import Deliver, GiveBack, GiveBackReason
from tradepost.receipts import (
    Failed,
    Preempted,
    Receipt,
    Result,
    Returned,
    SignedReceipt,
    verify_receipt,
)
from tradepost_broker.content.catalog import Catalog, loosest_tolerance
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Decision, Moment
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Job, Lease, LeaseState
from tradepost_broker.market.model.events import ReceiptDelivered
from tradepost_broker.market.trust.verification import compare_documents
from tradepost_broker.storage.shell_records import Delivery


def _by_code(root: type[TradepostError]) -> dict[str, type[TradepostError]]:
    found = {root.code(): root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found


#: The failures that are the same on every device: the only ones that a receipt may report.
STAGE_FAILURES: Final = _by_code(StageFailure)


class Delivered:
    """Work that delivers a checked receipt."""

    def __init__(
        self, *, checks: ReceiptChecks, lease: Lease, receipt: Receipt, result: Result, frame: Deliver
    ) -> None:
        self._checks = checks
        self._lease = lease
        self._receipt = receipt
        self._result = result
        self._frame = frame

    def decide(self, moment: Moment) -> Decision:
        """The outcome, and with which earlier ones it agrees; receipt and output of a lease still open."""
        delivery = self._delivery()
        outcome = outcome_of(self._result)
        delivered = ReceiptDelivered(
            at=moment.at,
            worker=self._lease.worker,
            lease=self._lease.id,
            outcome=outcome,
            stage_hashes=stage_hashes(self._receipt),
            stage_wall_us=self._stage_wall_us(),
            agrees_with=self._checks.agreeing(delivery, self._lease, outcome, moment),
            problem=_problem_of(self._result),
            seed=moment.seed,
        )
        # A repeated or late delivery changes nothing, so what was kept of the first one stays.
        is_open = self._lease.state is LeaseState.OPEN
        return Decision(event=delivered, records=(delivery,) if is_open else ())

    def _delivery(self) -> Delivery:
        result = self._result
        output_cid = result.output if isinstance(result, Returned) else ""
        return delivery_of(
            self._lease.id, self._frame.receipt, output=self._frame.output, output_cid=output_cid
        )

    def _stage_wall_us(self) -> tuple[int, ...]:
        """How long the stages took: of use where there are several, and unknown of one that failed."""
        stages = self._receipt.stages
        if len(stages) < 2 or isinstance(self._result, Failed):
            return ()
        return tuple(stage.wall_us for stage in stages)


class ReceiptChecks:
    """Checks what workers deliver. `broker` is this broker's key id."""

    def __init__(self, *, broker: str, market: Market, catalog: Catalog, uploads: Uploads) -> None:
        self._broker = broker
        self._market = market
        self._catalog = catalog
        self._uploads = uploads

    async def check(self, worker: str, frame: Deliver) -> Delivered:
        """The work that delivers `frame`, once these steps have passed:

        1. The lease is this worker's.
        2. The receipt's signature and form are valid, and by this worker.
        3. The receipt names this broker, the lease's job, attempt, nonce and expiry, and the job's pipeline
           and input.
        4. It reports stages of the pipeline, in order: all of them, or those before one that failed.
        5. The output is within the pipeline's limit, and its bytes have the CID that was signed.

        Raises `LeaseGone` (1) or `InvalidReceipt` (2 to 5).
        """
        # Step 1
        lease, job = self._lease_of(worker, frame.lease)
        # Step 2
        receipt = verify_receipt(frame.receipt)
        # Step 3
        self._check_names(receipt, job, lease)
        # Step 4
        manifest = self._catalog.manifest(job.pipeline)
        result = _check_stages(receipt, manifest)
        # Step 5
        await self._check_output(result, frame, manifest)
        return Delivered(checks=self, lease=lease, receipt=receipt, result=result, frame=frame)

    def check_stages_done(self, worker: str, frame: GiveBack) -> Receipt | None:
        """The receipt with which a preempted lease comes back, if it does, once steps 1 to 3 of `check` and
        this one have passed:

        4. The lease was preempted, and the receipt says so. It reports stages of the pipeline, in order, at
           least one and not all.

        Raises `LeaseGone` (1) or `InvalidReceipt` (2 to 4).
        """
        if frame.receipt is None:
            return None
        lease, job = self._lease_of(worker, frame.lease)
        receipt = verify_receipt(frame.receipt)
        self._check_names(receipt, job, lease)
        # Step 4
        if frame.reason is not GiveBackReason.PREEMPTED or not isinstance(receipt.outcome, Preempted):
            raise InvalidReceipt(f"a receipt of a lease that came back as {frame.reason.value}")
        names = _names_reported(receipt, manifest := self._catalog.manifest(job.pipeline))
        if not 0 < len(names) < len(manifest.stages):
            raise InvalidReceipt(f"{len(names)} of {len(manifest.stages)} stages done is not preempted")
        return receipt

    def _lease_of(self, worker: str, lease_id: str) -> tuple[Lease, Job]:
        lease = self._market.lease(lease_id)
        if lease is None or lease.worker != worker:
            raise LeaseGone(f"lease {lease_id} is not known, or not this worker's")
        job = self._market.job(lease.job)
        if job is None:
            raise LeaseGone(f"the job of lease {lease_id} is over")
        return lease, job

    def agreeing(self, delivery: Delivery, lease: Lease, outcome: str, moment: Moment) -> tuple[str, ...]:
        """The earlier leases of the same job with the same outcome, bit for bit or within tolerance."""
        job = self._market.job(lease.job)
        tolerance = loosest_tolerance(self._catalog.manifest(job.pipeline)) if job is not None else None
        return tuple(
            other.id
            for other in self._market.results_of(lease.job)
            if other.id != lease.id
            and (other.outcome == outcome or self._close(delivery, other, tolerance, moment))
        )

    def _close(self, delivery: Delivery, other: Lease, tolerance: Tolerance | None, moment: Moment) -> bool:
        """Whether two outputs that are not the same bytes agree within the tolerance."""
        earlier = moment.records.get(Delivery, other.id)
        if tolerance is None or earlier is None or not (earlier.output_cid and delivery.output_cid):
            return False
        try:
            ours, theirs = (decode(self._uploads.output_of(one)) for one in (delivery, earlier))
        except InvalidTensorDocument:  # such bytes agree with nothing but themselves
            return False
        return compare_documents(ours, theirs, tolerance).agrees

    def _check_names(self, receipt: Receipt, job: Job, lease: Lease) -> None:
        expected = {
            "broker": self._broker,
            "worker": lease.worker,
            "job": job.id,
            "lease": lease.id,
            "attempt": lease.attempt,
            "pipeline": job.pipeline,
            "input": job.input,
            "nonce": lease.nonce,
            "expires_at": int(lease.expires_at),
        }
        for name, value in expected.items():
            if getattr(receipt, name) != value:
                raise InvalidReceipt(f"its {name} is {getattr(receipt, name)!r}; the lease has {value!r}")

    async def _check_output(self, outcome: Result, frame: Deliver, manifest: Manifest) -> None:
        limit = manifest.limits.output_bytes
        if isinstance(outcome, Failed):
            if frame.output is not None:
                raise InvalidReceipt("it reports a failure, and comes with an output")
            return
        if outcome.output_bytes > limit:
            raise InvalidReceipt(f"an output of {outcome.output_bytes:,} bytes; the limit is {limit:,}")
        if frame.output is None:
            size_bytes = await self._uploaded_bytes(frame.lease, outcome.output, limit)
        elif add_bytes(frame.output, put=None) != outcome.output:
            raise InvalidReceipt("the output's bytes do not have the CID that was signed")
        else:
            size_bytes = len(frame.output)
        if size_bytes != outcome.output_bytes:
            raise InvalidReceipt(f"the output has {size_bytes:,} bytes; it says {outcome.output_bytes:,}")

    async def _uploaded_bytes(self, lease: str, output: str, limit: int) -> int:
        try:
            return len(await self._uploads.read_file(f"lease:{lease}", output, bytes_max=limit))
        except TradepostError as error:
            raise InvalidReceipt(f"the output that was uploaded: {error}") from None


def outcome_of(result: Result) -> str:
    """What identifies the outcome in the market: the output's CID, or `failed:<stage>:<code>`."""
    return result.output if isinstance(result, Returned) else f"failed:{result.stage}:{result.code}"


def stage_hashes(receipt: Receipt) -> tuple[tuple[str, str], ...]:
    """The stages that a receipt reports, each with the hash of its output, as the market compares them."""
    return tuple((stage.stage, stage.output) for stage in receipt.stages)


def delivery_of(
    lease: str, signed: SignedReceipt, *, output: bytes | None = None, output_cid: str = ""
) -> Delivery:
    """The record that keeps a lease's receipt, and its output if it has one."""
    return Delivery(
        id=lease,
        payload=signed.payload,
        public_key=signed.public_key,
        signature=signed.signature,
        output=output,
        output_cid=output_cid,
    )


def _check_stages(receipt: Receipt, manifest: Manifest) -> Result:
    """What the receipt says that the pipeline came to."""
    names = [stage.name for stage in manifest.stages]
    reported = _names_reported(receipt, manifest)
    outcome = receipt.outcome
    if isinstance(outcome, Preempted):
        raise InvalidReceipt("it was preempted, which is no result")
    if isinstance(outcome, Returned) and len(reported) != len(names):
        raise InvalidReceipt(f"it returns an output after {len(reported)} of {len(names)} stages")
    if isinstance(outcome, Failed) and (outcome.stage not in names or outcome.code not in STAGE_FAILURES):
        raise InvalidReceipt(f"{outcome.code!r} at {outcome.stage!r} is no failure of this pipeline")
    return outcome


def _names_reported(receipt: Receipt, manifest: Manifest) -> list[str]:
    names = [stage.name for stage in manifest.stages]
    reported = [stage.stage for stage in receipt.stages]
    if reported != names[: len(reported)]:
        raise InvalidReceipt(f"it reports the stages {reported}; the pipeline has {names}")
    return reported


def _problem_of(result: Result) -> Problem | None:
    if isinstance(result, Returned):
        return None
    return STAGE_FAILURES[result.code](result.detail, stage=result.stage).to_problem()
