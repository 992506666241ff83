"""Where an agent takes artifacts from: its blocks, gateways and the broker, none of which is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradepost.content import Cid, FolderStore
from tradepost.protocol import Deliver, GiveBackReason
from tradepost.testing.gateway import Gateway
from tradepost_worker.testing.agent_bench import MODEL, NOOP, AgentBench
from tradepost_worker.testing.samples import sample_input


async def test_other_bytes_than_the_cid_promises_run_nowhere(bench: AgentBench) -> None:
    kernel = Cid(next(iter(NOOP.artifacts)))
    bench.broker.blocks[kernel] = b"something else"
    async with bench.agent():
        await bench.connected()
        end = await bench.given_back()
    assert (end.reason, end.problem.code) == (GiveBackReason.FAILED, "content-unavailable")
    assert set(end.problem.facts["sources"].values()) == {"content-mismatch"}
    assert end.problem.stage == "kernel"
    assert bench.runners.documents == []


class OneAnswer:
    """A store that has the same bytes for every CID."""

    def get(self, cid: Cid) -> bytes:
        return b"something else"

    def has(self, cid: Cid) -> bool:
        return True


async def test_a_gateway_that_lies_is_named_and_the_broker_is_asked(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(OneAnswer())
    async with gateway.serve() as url:
        bench.gateways = [url]
        async with bench.agent():
            await bench.connected()
            await bench.returned()
            await bench.broker.send(bench.broker.grant(MODEL, sample_input()))
            await bench.broker.next(Deliver)
    assert len(gateway.asked) == 1  # and not again for a while
    (line,) = [record for record in caplog.records if record.__dict__.get("action") == "source_put_aside"]
    assert line.__dict__["source"] == url
    assert url in line.getMessage()


async def test_a_gateway_saves_the_broker_the_artifacts(bench: AgentBench, tmp_path: Path) -> None:
    mirror = FolderStore(tmp_path / "mirror", bytes_max=1 << 20)
    for cid, block in bench.broker.blocks.items():
        mirror.put(cid, block)
    bench.broker.blocks.clear()
    gateway = Gateway(mirror)
    async with gateway.serve() as url:
        bench.gateways = [url]
        async with bench.agent():
            await bench.connected()
            await bench.returned()
    assert set(gateway.asked) == set(NOOP.artifacts)


async def test_a_cached_block_that_the_disk_changed_is_fetched_again(bench: AgentBench) -> None:
    async with bench.agent():
        await bench.connected()
        await bench.returned()
    for block in (bench.folder / "blocks").glob("??/b*"):
        block.write_bytes(b"changed")
    bench.broker.connected.clear()
    async with bench.agent():
        await bench.connected()
        await bench.returned()


async def test_a_fetch_that_takes_long_is_told_of(
    bench: AgentBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.fetch_log_s = 0.0
    caplog.set_level("INFO")
    async with bench.agent():
        await bench.connected()
        await bench.returned()
    lines = [record for record in caplog.records if record.__dict__.get("action") == "artifact_fetching"]
    assert {line.__dict__["artifact"] for line in lines} == set(NOOP.artifacts)
