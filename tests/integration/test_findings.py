"""Whatever lowers a device's reputation reaches its owner, with the lease and the reason."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tradepost.errors import PipelineTooCostly, RunnerFailed, TradepostError
from tradepost.protocol import Finding, GiveBack
from tradepost_worker.leases.findings import read_findings
from tradepost_worker.testing.agent_bench import NOOP, AgentBench
from tradepost_worker.testing.lent_device import until
from tradepost_worker.testing.samples import sample_input


def logged(caplog: pytest.LogCaptureFixture, action: str) -> list[str]:
    records: list[Any] = [record for record in caplog.records if getattr(record, "action", "") == action]
    return [record.getMessage() for record in records]


async def test_a_finding_is_logged_and_kept(bench: AgentBench, caplog: pytest.LogCaptureFixture) -> None:
    finding = Finding(lease="job.1", kind="audit_failed", at=1000.0, stage="topk")
    async with bench.agent():
        await bench.connected()
        await bench.broker.send(finding, finding)
        await until(lambda: read_findings(bench.folder / "worker.sqlite") == [finding])
    assert logged(caplog, "finding") == [
        "Lease job.1 lowers this device's reputation: a reference run contradicts its result (stage topk)."
    ]


async def test_what_was_found_while_the_worker_was_away_is_learnt_when_it_comes_back(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    known = Finding(lease="job.1", kind="expired", at=1000.0, detail="lease job.1 expired")
    bench.broker.evidence = [
        {"kind": "agreed", "lease": "job.3", "at": 3000.0, "capability": "cpu", "job": "job"},
        {"kind": "expired", "lease": "job.2", "at": 2000.0, "stage": "", "detail": "lease job.2 expired"},
        {"kind": "expired", "lease": "job.1", "at": 1000.0, "stage": "", "detail": "lease job.1 expired"},
    ]
    async with bench.agent():
        await bench.connected()
        await until(lambda: len(read_findings(bench.folder / "worker.sqlite")) == 2)
    caplog.clear()
    bench.broker.evidence.insert(
        0, {"kind": "new_kind", "lease": "job.4", "at": 4000.0, "detail": "x\x1b[31m"}
    )
    bench.broker.connected.clear()
    async with bench.agent():
        await bench.connected()
        await until(lambda: len(read_findings(bench.folder / "worker.sqlite")) == 3)
    assert read_findings(bench.folder / "worker.sqlite", since=1500.0)[1].lease == "job.2"
    assert read_findings(bench.folder / "worker.sqlite")[2] == known
    (line,) = logged(caplog, "finding")
    assert line.startswith("Lease job.4 lowers this device's reputation: new_kind: x")
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("error", "end", "why"),
    [
        (
            RunnerFailed("the runner was killed by signal 9", stage="kernel"),
            "failed",
            "The runner process ended unexpectedly. the runner was killed by signal 9",
        ),
        (
            PipelineTooCostly("the runner was killed at its memory limit", stage="kernel"),
            "refused",
            "This pipeline needs more memory or time than this device or its compiler provides. the runner "
            "was killed at its memory limit",
        ),
    ],
    ids=["failed", "costs too much to compile"],
)
async def test_a_lease_that_is_given_back_is_logged_with_its_pipeline_and_reason(
    bench: AgentBench, caplog: pytest.LogCaptureFixture, error: TradepostError, end: str, why: str
) -> None:
    caplog.set_level(logging.INFO)
    bench.runners.error = error
    async with bench.agent():
        await bench.connected()
        grant = bench.broker.grant(NOOP, sample_input())
        await bench.broker.send(grant)
        await bench.broker.next(GiveBack)
    (line,) = logged(caplog, "lease_returned")
    assert line == f"Gave back lease {grant.lease}, {end} (pipeline {NOOP.cid}, stage kernel): {why}"
