"""What the broker publishes, the real Kubo takes, and the reverse; skipped where there is no `ipfs`."""

from __future__ import annotations

from pathlib import Path

from tradepost.content.transfer.gateway import CAR_TYPE
from tradepost.testing.kubo_daemon import KuboDaemon
from tradepost_broker.testing import SamplePipeline, local_broker


async def test_a_pipeline_is_imported_by_kubo_and_comes_back(kubo_daemon: KuboDaemon, tmp_path: Path) -> None:
    async with local_broker(tmp_path / "broker") as broker:
        pipeline = SamplePipeline(kernel_bytes=600_000)
        await broker.publish(await broker.account(), pipeline)
        car = tmp_path / "pipeline.car"
        car.write_bytes(await broker.call("GET", f"/ipfs/{pipeline.cid}?format=car"))
        # Kubo pins the root, so it follows every link and misses no block.
        assert b"success" in kubo_daemon.run("dag", "import", str(car))
        kernel = pipeline.manifest.stages[0].artifact
        assert len(kubo_daemon.run("cat", f"{pipeline.cid}/stages/0/artifact")) == 600_000
        assert kubo_daemon.run("cat", kernel).startswith(b"kernel of sample;")

        theirs = kubo_daemon.run("dag", "export", pipeline.cid)
        key = await broker.account("bob")
        async with broker.session.post(
            f"{broker.url}/v1/blocks",
            data=theirs,
            headers={"Authorization": f"Bearer {key}", "Content-Type": CAR_TYPE},
        ) as response:
            assert response.status == 201
        for cid, block in pipeline.blocks():
            assert await broker.call("GET", f"/v1/blocks/{cid}", key=key) == block
