"""All checks of a receipt, before the work that delivers it."""

from __future__ import annotations

from functools import partial

from tradepost.errors import InvalidReceipt, LeaseGone
from tradepost.pipeline.manifest import Manifest
from tradepost.protocol import Deliver, GiveBack, GiveBackReason
from tradepost.receipts import (
    Failed,
    JobOutcome,
    Preempted,
    Receipt,
    Returned,
    are_first_stages,
    is_stage_failure,
    verify_receipt,
)
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.engine.work import EventWork
from tradepost_broker.jobs.output_checks import CheckedResult, OutputChecks
from tradepost_broker.jobs.output_comparison import OutputComparison
from tradepost_broker.jobs.output_quota import CountedDelivery, OutputQuota
from tradepost_broker.jobs.receipt_delivery import ReceiptDelivery
from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose
from tradepost_broker.market.model.events import Tick


class ReceiptChecks:
    """Checks what workers deliver. `broker` is this broker's key id."""

    def __init__(
        self,
        *,
        broker: str,
        market: Market,
        catalog: Catalog,
        outputs: OutputChecks,
        comparison: OutputComparison,
        quota: OutputQuota,
    ) -> None:
        self._quota = quota
        self._broker = broker
        self._market = market
        self._catalog = catalog
        self._outputs = outputs
        self._comparison = comparison
        self._arrived: set[str] = set()

    @property
    def arrived(self) -> tuple[str, ...]:
        """The leases whose receipt has arrived and is not decided yet, in order."""
        return tuple(sorted(self._arrived))

    def decided(self, lease: str) -> None:
        """Forget that a receipt had arrived, now that the market has decided on it."""
        self._arrived.discard(lease)

    async def check(self, worker: str, frame: Deliver) -> CountedDelivery:
        """The work that delivers `frame`, once these steps have passed:

        1. The lease is this worker's.
        2. The receipt's signature and form are valid, and by this worker.
        3. The receipt names this broker, the lease's job, attempt, nonce and expiry, and the job's pipeline
           and input.
        4. It reports stages of the pipeline, in order: all of them, or those before one that failed.
        5. The output is within the pipeline's limit, and its bytes have the CID that was signed.
        6. It is a tensor document with the pipeline's outputs. If they are not as the manifest declares, the
           outcome is that failure.

        From step 1 on the lease counts as `arrived`: until a later step fails, or `decided` is called.
        Raises `LeaseGone` (1), `InvalidReceipt` (2 to 6), or `BrokerDefect` if what was uploaded is lost (5).
        """
        # Step 1
        lease, job = self._lease_of(worker, frame.lease)
        self._arrived.add(lease.id)
        try:
            return await self._check_content(frame, lease, job)
        except BaseException:
            self._arrived.discard(lease.id)
            raise

    async def _check_content(self, frame: Deliver, lease: Lease, job: Job) -> CountedDelivery:
        # Step 2
        receipt = verify_receipt(frame.receipt)
        # Step 3
        self._check_names(receipt, job, lease)
        # Step 4
        manifest = self._catalog.manifest(job.pipeline)
        claimed = _check_stages(receipt, manifest)
        # Steps 5 and 6
        result = await self._check_output(claimed, frame, manifest)
        is_reference = lease.purpose is LeasePurpose.AUDIT
        delivery = ReceiptDelivery(
            results=self._market,
            manifest=manifest,
            compare_outputs=partial(self._comparison.compare, is_reference=is_reference),
            lease=lease,
            receipt=receipt,
            result=result,
            frame=frame,
            find_lease=self._market.lease,
        )
        return CountedDelivery(delivery, lease=lease, account=job.account, quota=self._quota)

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
            raise InvalidReceipt(f"a give-back with reason {frame.reason.value} must not carry a receipt")
        names = _names_reported(receipt, manifest := self._catalog.manifest(job.pipeline))
        if not 0 < len(names) < len(manifest.stages):
            raise InvalidReceipt(
                f"{len(names)} of {len(manifest.stages)} stages are done, which is not a preemption"
            )
        return receipt

    def _lease_of(self, worker: str, lease_id: str) -> tuple[Lease, Job]:
        lease = self._market.lease(lease_id)
        if lease is None or lease.worker != worker:
            raise LeaseGone(f"lease {lease_id} is unknown, or belongs to another worker")
        job = self._market.job(lease.job)
        if job is None:
            raise LeaseGone(f"the job of lease {lease_id} is over")
        return lease, job

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

    async def _check_output(self, claimed: JobOutcome, frame: Deliver, manifest: Manifest) -> CheckedResult:
        if isinstance(claimed, Failed):
            if frame.output is not None:
                raise InvalidReceipt("it reports a failure, but has an output")
            return CheckedResult(claimed, must_be_confirmed=True)
        return await self._outputs.check(manifest, claimed, lease=frame.lease, output=frame.output)


def _check_stages(receipt: Receipt, manifest: Manifest) -> JobOutcome:
    """What the receipt says that the pipeline came to."""
    names = [stage.name for stage in manifest.stages]
    reported = _names_reported(receipt, manifest)
    outcome = receipt.outcome
    if isinstance(outcome, Preempted):
        raise InvalidReceipt("it was preempted, which is not a result")
    if isinstance(outcome, Returned) and len(reported) != len(names):
        raise InvalidReceipt(f"it returns an output after {len(reported)} of {len(names)} stages")
    if isinstance(outcome, Failed) and not is_stage_failure(outcome.stage, outcome.code, names):
        raise InvalidReceipt(f"{outcome.code!r} at {outcome.stage!r} is not a failure of this pipeline")
    return outcome


def _names_reported(receipt: Receipt, manifest: Manifest) -> list[str]:
    names = [stage.name for stage in manifest.stages]
    reported = [stage.stage for stage in receipt.stages]
    if not are_first_stages(receipt.stages, names):
        raise InvalidReceipt(f"it reports the stages {reported}; the pipeline has {names}")
    return reported


def tick_work(receipts: ReceiptChecks) -> EventWork:
    """Work that lets time pass in the market, except for leases whose receipt is being checked."""
    return EventWork(lambda moment: Tick(at=moment.at, seed=moment.seed, arrived=receipts.arrived))
