"""One lease from grant to end: check, fetch, run, sign.

The end is a receipt, for an output or for a stage's failure (both are the same on every device, and both are
verified), or the lease given back with the reason, for what only concerns this device. If the owner ended
it, a receipt says which stages were done: they may be paid.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from tradepost.content import Cid, add_bytes, parse_cid, read_file
from tradepost.errors import (
    DeadlineExceeded,
    InvalidPipeline,
    InvalidTrustPolicy,
    LeaseTimeout,
    NoEligibleWorker,
    PipelineTooCostly,
    Problem,
    ProtocolError,
    RunnerFailed,
    StageFailure,
    TradepostError,
    UntrustedSigner,
    WorkPreempted,
)
from tradepost.protocol import INLINE_BYTES_MAX, Deliver, GiveBack, GiveBackReason, Grant
from tradepost.receipts import (
    Failed,
    LeaseOutcome,
    Preempted,
    Receipt,
    Returned,
    SignedReceipt,
    StageReport,
    sign_receipt,
)
from tradepost_worker.device.telemetry import StageLatencies
from tradepost_worker.leases.outbox import LeaseEnd
from tradepost_worker.leases.pipelines import PipelineLibrary, TrustedPipeline
from tradepost_worker.link.connection import until_reached
from tradepost_worker.link.joined_broker import JoinedBroker
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.supervision.request_queue import OnStages
from tradepost_worker.supervision.runner_pool import RunnablePipeline

#: The owner, the device's limits or the pipeline is the reason, whatever the input. The broker gives this
#: device no job of that pipeline then, so nothing that an input can cause is among them.
_REFUSALS: Final = (
    UntrustedSigner,
    InvalidTrustPolicy,
    InvalidPipeline,
    NoEligibleWorker,
    PipelineTooCostly,
    ProtocolError,
)
#: The time that the job and its pipeline allow was over. The broker, which knows both, checks that it was.
_OUT_OF_TIME: Final = (DeadlineExceeded, LeaseTimeout)
#: How much earlier than its end a lease is given back: what the broker hears after that is evidence against
#: this device. The broker allows a second.
_EARLY_S_MAX: Final = 0.8
_EARLY_SHARE: Final = 0.05


class PipelineRunner(Protocol):
    """Runs pipelines; `RunnerPool` does."""

    async def run(
        self, pipeline: RunnablePipeline, document: bytes, *, wall_s_max: float, on_stages: OnStages
    ) -> PipelineRun:
        """How `pipeline` ended on an input document; `on_stages` is told which stages are done by then."""
        ...


@dataclass(slots=True)
class StageProgress:
    """The stages that a lease's run has finished so far, in order."""

    stages: tuple[StageReport, ...] = ()

    def note(self, stages: tuple[StageReport, ...]) -> None:
        """Take the newest report."""
        self.stages = stages


class LeaseExecutor:
    """Works on the leases of `broker`.

    `engines` are the versions that receipts state, `rng` spreads repeated requests, and `latencies` is told
    how long stages took.
    """

    def __init__(
        self,
        *,
        broker: JoinedBroker,
        pipelines: PipelineLibrary,
        runners: PipelineRunner,
        engines: Mapping[str, str],
        rng: random.Random,
        latencies: StageLatencies | None = None,
    ) -> None:
        self._broker = broker
        self._pipelines = pipelines
        self._runners = runners
        self._engines = dict(engines)
        self._rng = rng
        self._latencies = latencies or StageLatencies()

    async def run(self, grant: Grant, progress: StageProgress) -> LeaseEnd:
        """How the lease ended; `progress` tells how far it is before that.

        Raises no `TradepostError`: each becomes the reason of a given-back lease.
        """
        try:
            left_s = _check(grant)
            async with asyncio.timeout(left_s - min(_EARLY_S_MAX, _EARLY_SHARE * left_s)):
                return await self._work(grant, left_s, progress)
        except TimeoutError:
            return give_back(grant.lease, DeadlineExceeded("the lease expired before it was done"))
        except TradepostError as error:
            return give_back(grant.lease, error)

    def preempt(self, grant: Grant, progress: StageProgress, why: str) -> LeaseEnd:
        """The lease given back because its owner wants the device, with a receipt for the stages done."""
        receipt = None
        if progress.stages:
            input_cid = parse_cid(grant.input_cid or add_bytes(grant.input or b"", put=None))
            receipt = self._sign(grant, input_cid, Preempted(), progress.stages)
        return preempted(grant.lease, why, receipt)

    async def _work(self, grant: Grant, left_s: float, progress: StageProgress) -> LeaseEnd:
        # A broker that restarts meanwhile is no failure of this device.
        pipeline = await until_reached(lambda: self._pipelines.get(grant.pipeline), rng=self._rng)
        document, input_cid = await until_reached(lambda: self._input(grant, pipeline), rng=self._rng)
        wall_s_max = min(left_s, pipeline.manifest.limits.wall_ms / 1000)
        try:
            run = await self._runners.run(pipeline, document, wall_s_max=wall_s_max, on_stages=progress.note)
        except StageFailure as failure:  # an artifact that loads nowhere
            run = PipelineRun(stages=(), failure=failure.to_problem())
        self._latencies.note(pipeline.manifest.name, run.stages)
        _refuse_device_dependent(run)
        return self._deliver(grant, run, input_cid)

    async def _input(self, grant: Grant, pipeline: TrustedPipeline) -> tuple[bytes, Cid]:
        """The input document and the CID under which the receipt names it."""
        if grant.input is not None:
            return grant.input, add_bytes(grant.input, put=None)

        async def block(cid: Cid) -> bytes:
            return await self._broker.api.lease_block(grant.lease, grant.nonce, cid)

        cid = parse_cid(grant.input_cid or "")
        return await read_file(cid, block, bytes_max=pipeline.manifest.limits.input_bytes), cid

    def _deliver(self, grant: Grant, run: PipelineRun, input_cid: Cid) -> LeaseEnd:
        outcome: LeaseOutcome
        if run.failure is None:
            outcome = Returned(output=add_bytes(run.output, put=None), output_bytes=len(run.output))
        else:
            outcome = _failed(run.failure)
        is_inline = run.failure is None and len(run.output) <= INLINE_BYTES_MAX
        return LeaseEnd(
            frame=Deliver(
                lease=grant.lease,
                receipt=self._sign(grant, input_cid, outcome, run.stages),
                output=run.output if is_inline else None,
            ),
            nonce=grant.nonce,
            document=None if is_inline or run.failure is not None else run.output,
        )

    def _sign(
        self, grant: Grant, input_cid: Cid, outcome: LeaseOutcome, stages: tuple[StageReport, ...]
    ) -> SignedReceipt:
        receipt = Receipt(
            broker=self._broker.broker_id,
            job=grant.job,
            lease=grant.lease,
            attempt=grant.attempt,
            worker=self._broker.worker.id,
            pipeline=grant.pipeline,
            input=input_cid,
            outcome=outcome,
            stages=stages,
            engines=self._engines,
            nonce=grant.nonce,
            expires_at=grant.expires_at,
        )
        return sign_receipt(receipt, self._broker.worker)


def _check(grant: Grant) -> float:
    """The seconds that the lease still has, by the broker's count: this device's clock may be wrong.

    Raises `ProtocolError` or `DeadlineExceeded`.
    """
    if (grant.input is None) == (grant.input_cid is None):
        raise ProtocolError("a grant must have its input either inline or as a CID")
    if grant.left_s is None:
        raise ProtocolError("a grant must state how much time is left")
    if grant.left_s <= 0:
        raise DeadlineExceeded("the lease expired before the broker sent it")
    return grant.left_s


def give_back(lease: str, error: TradepostError, reason: GiveBackReason | None = None) -> LeaseEnd:
    """The lease returned because of `error`; the reason follows from the error unless it is given."""
    if reason is None:
        reason = _reason_of(error)
    return LeaseEnd(frame=GiveBack(lease=lease, reason=reason, problem=error.to_problem()))


def _reason_of(error: TradepostError) -> GiveBackReason:
    if isinstance(error, _REFUSALS):
        return GiveBackReason.REFUSED
    return GiveBackReason.EXHAUSTED if isinstance(error, _OUT_OF_TIME) else GiveBackReason.FAILED


def preempted(lease: str, why: str, receipt: SignedReceipt | None = None) -> LeaseEnd:
    """The lease returned because its owner wants the device; `receipt` reports the stages that were done."""
    problem = WorkPreempted(why).to_problem()
    return LeaseEnd(
        frame=GiveBack(lease=lease, reason=GiveBackReason.PREEMPTED, problem=problem, receipt=receipt)
    )


def _failed(failure: Problem) -> Failed:
    return Failed(stage=failure.stage or "", code=failure.code, detail=failure.detail)


def _refuse_device_dependent(run: PipelineRun) -> None:
    """Raise the run's failure if it may differ on another device, so that nobody signs it as a result.

    Native stack frames have machine-dependent sizes, so where a kernel's stack overflows is no property of
    the kernel.
    """
    failure = run.failure
    if failure is not None and failure.facts.get("reason") == "stack-overflow":
        raise RunnerFailed(f"a kernel overflowed this device's stack: {failure.detail}", stage=failure.stage)
