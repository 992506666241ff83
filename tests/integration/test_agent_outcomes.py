"""What an agent signs and what it gives back, and documents that are too large for a message."""

from __future__ import annotations

import pytest

from tradepost.content import Cid, add_bytes, read_file
from tradepost.errors import (
    BrokerUnavailable,
    InputTooCostly,
    InvalidInput,
    InvalidTensorDocument,
    KernelTrap,
    LeaseTimeout,
    PipelineTooCostly,
    QuotaExceeded,
    RunnerFailed,
)
from tradepost.pipeline.tensors import decode
from tradepost.protocol import Deliver, GiveBackReason
from tradepost.receipts import Failed, Returned, verify_receipt
from tradepost_worker.leases import lease_executor
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.testing.agent_bench import NOOP, REPORT, AgentBench
from tradepost_worker.testing.samples import sample_input

LARGE = sample_input(*range(400_000))


async def test_a_stage_failure_is_a_signed_result(bench: AgentBench) -> None:
    failure = KernelTrap("unreachable", stage="kernel").to_problem()
    bench.runners.run_made = PipelineRun(stages=(), failure=failure)
    async with bench.agent():
        await bench.connected()
        delivered = await bench.returned()
    assert delivered.output is None
    receipt = verify_receipt(delivered.receipt)
    assert receipt.outcome == Failed(stage="kernel", code="kernel-trap", detail="unreachable")


async def test_an_artifact_that_loads_nowhere_is_a_signed_result(bench: AgentBench) -> None:
    bench.runners.error = KernelTrap("bad module", stage="kernel")
    async with bench.agent():
        await bench.connected()
        delivered = await bench.returned()
    assert isinstance(verify_receipt(delivered.receipt).outcome, Failed)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RunnerFailed("crash"), GiveBackReason.FAILED),
        # If these were refusals, one such input would keep all jobs of its pipeline from the device.
        (InputTooCostly("Failed to allocate memory"), GiveBackReason.FAILED),
        (InvalidInput("no tensor x"), GiveBackReason.FAILED),
        (InvalidTensorDocument("cut short"), GiveBackReason.FAILED),
        (PipelineTooCostly("killed while it loaded"), GiveBackReason.REFUSED),
        (LeaseTimeout("late"), GiveBackReason.EXHAUSTED),
        (ZeroDivisionError(), GiveBackReason.FAILED),
    ],
)
async def test_what_depends_on_the_device_is_never_signed(
    bench: AgentBench, error: Exception, reason: GiveBackReason
) -> None:
    bench.runners.error = error
    async with bench.agent():
        await bench.connected()
        assert (await bench.given_back()).reason is reason


async def test_a_stack_overflow_is_never_signed(bench: AgentBench) -> None:
    failure = KernelTrap("stack overflow", stage="kernel", reason="stack-overflow").to_problem()
    bench.runners.run_made = PipelineRun(stages=(), failure=failure)
    async with bench.agent():
        await bench.connected()
        end = await bench.given_back()
    assert (end.reason, end.problem.code) == (GiveBackReason.FAILED, "runner-failed")


async def test_a_lease_that_expires_while_it_runs_is_given_back(bench: AgentBench) -> None:
    async with bench.agent():
        await bench.connected()
        await bench.returned()  # so that the next lease need not fetch anything before it runs
        bench.runners.hold = True
        end = await bench.given_back(left_s=2.0)
    assert (end.reason, end.problem.code) == (GiveBackReason.EXHAUSTED, "deadline-exceeded")
    assert bench.runners.stopped.is_set()


async def test_a_lease_is_given_back_before_the_broker_finds_it_expired(
    bench: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that had to wait for its turn may not be done in time: said too late, it would count."""
    monkeypatch.setattr(lease_executor, "_EARLY_S_MAX", 3599.0)
    monkeypatch.setattr(lease_executor, "_EARLY_SHARE", 1.0)
    bench.runners.hold = True
    async with bench.agent():
        await bench.connected()
        assert (await bench.given_back(left_s=3600.0)).reason is GiveBackReason.EXHAUSTED


async def test_a_lease_whose_end_is_long_past_by_this_devices_clock_runs(bench: AgentBench) -> None:
    """The broker states the time that is left: its clock and the device's may differ by hours."""
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(bench.broker.grant(NOOP, sample_input(), expires_at=1000))
        assert verify_receipt((await bench.broker.next(Deliver)).receipt).expires_at == 1000


async def test_large_documents_travel_as_blocks(bench: AgentBench) -> None:
    document = sample_input(*range(400_000))
    blocks: dict[Cid, bytes] = {}
    cid = add_bytes(document, put=blocks.__setitem__)
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, None, input_cid=cid)
        bench.broker.lease_blocks |= {(grant.lease, block): data for block, data in blocks.items()}
        await bench.broker.send(grant)
        delivered = await bench.broker.next(Deliver)
    assert delivered.output is None
    receipt = verify_receipt(delivered.receipt)
    assert receipt.input == cid
    assert isinstance(receipt.outcome, Returned)

    async def uploaded(block: Cid) -> bytes:
        return bench.broker.lease_blocks[grant.lease, block]

    output = await read_file(Cid(receipt.outcome.output), uploaded, bytes_max=1 << 30)
    assert decode(output)["x"].tolist() == list(range(400_000))


async def test_an_upload_is_tried_again(bench: AgentBench) -> None:
    bench.broker.upload_errors = [BrokerUnavailable("busy"), BrokerUnavailable("busy")]
    bench.runners.run_made = PipelineRun(stages=(REPORT,), output=LARGE)
    async with bench.agent():
        await bench.connected()
        delivered = await bench.returned()
    assert delivered.output is None
    assert sum(len(data) for data in bench.broker.lease_blocks.values()) > len(LARGE)


async def test_an_output_that_the_broker_does_not_take_is_given_back(bench: AgentBench) -> None:
    bench.broker.upload_errors = [QuotaExceeded("too much")]
    bench.runners.run_made = PipelineRun(stages=(REPORT,), output=LARGE)
    async with bench.agent():
        await bench.connected()
        assert (await bench.given_back()).problem.code == "quota-exceeded"
    assert bench.pending() == []
