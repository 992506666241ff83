"""What `tradepost publish --kubo` brings to a real node can be fetched from it, checked, and run."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import wasmtime
from typer.testing import CliRunner

import tradepost_kernels
from tradepost.cli import app
from tradepost.client.async_client import AsyncClient
from tradepost.content import Cid, FolderStore, add_bytes
from tradepost.content.ipld.dag_pb import encode_varint
from tradepost.content.transfer.car import import_car
from tradepost.content.transfer.kubo import Kubo
from tradepost.errors import ContentMismatch, UnknownPipeline
from tradepost.pipeline.manifest import decode_manifest
from tradepost.protocol import Deliver, PipelineView
from tradepost.testing.kubo_daemon import KuboDaemon
from tradepost_broker.testing import local_broker
from tradepost_signing.bundles.bundle import sign_bytes
from tradepost_signing.keys import SigningKey
from tradepost_signing.policy.trust import TrustPolicy
from tradepost_signing.publishing.artifacts import Artifact
from tradepost_signing.publishing.kubo_publish import publish_to_kubo
from tradepost_signing.publishing.publish import SignedPipeline
from tradepost_signing.testing import ECHO_PIPELINE
from tradepost_worker.settings import FILE_NAME, save_settings
from tradepost_worker.testing.lent_device import NOOP, lent_device
from tradepost_worker.testing.samples import sample_input

KEY = SigningKey.generate()
MODULE = wasmtime.wat2wasm(
    """(module
      (memory (export "memory") 1)
      (func (export "kernel_alloc") (param i32) (result i32) i32.const 0)
      (func (export "kernel_run") (param i32 i32) (result i64) i64.const 0))"""
)
#: What a custom section holds is for nobody, and makes this kernel a file of several blocks.
PADDING = b"\x03pad" + random.Random(4).randbytes(600_000)
KERNEL = bytes(MODULE) + b"\0" + encode_varint(len(PADDING)) + PADDING


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    KEY.save(tmp_path / "key", passphrase=None)
    (tmp_path / "kernel.wasm").write_bytes(KERNEL)
    (tmp_path / "pipeline.toml").write_text(ECHO_PIPELINE)
    return tmp_path / "pipeline.toml"


async def tradepost(*arguments: str, home: Path) -> str:
    """What a command prints; it runs an event loop of its own, so it gets a thread."""
    environment = {"TRADEPOST_CONTENT": str(home / "store"), "TRADEPOST_URL": None, "TRADEPOST_API_KEY": None}
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment)
    if result.exception is not None:
        raise result.exception
    return result.stdout


async def publish(pipeline: Path, *to: str) -> dict[str, object]:
    key = str(pipeline.parent / "key")
    told = await tradepost("publish", str(pipeline), "--key", key, *to, "--json", home=pipeline.parent)
    return json.loads(told)  # type: ignore[no-any-return]


def sources(daemon: KuboDaemon) -> list[tuple[str, str]]:
    return [("--gateway", daemon.gateway), ("--kubo", daemon.api)]


async def check_fetched(cid: str, bundle: str, source: Sequence[str], home: Path) -> None:
    """Fetch everything into an empty store, as a stranger to broker and publisher would, and check it."""
    await asyncio.to_thread(home.mkdir)
    await tradepost("content", "get", cid, "--car", "-o", str(home / "pipeline.car"), *source, home=home)
    await tradepost("content", "get", cid, "-o", str(home / "manifest"), *source, home=home)
    artifact = f"{cid}/stages/0/artifact"
    await tradepost("content", "get", artifact, "-o", str(home / "kernel"), *source, home=home)
    await tradepost("content", "get", bundle, "-o", str(home / "bundle"), *source, home=home)
    await tradepost("content", "pin", cid, home=home)  # which needs every block of it
    assert FolderStore(home / "store", bytes_max=1 << 30).verify().blocks >= 5
    assert (home / "kernel").read_bytes() == KERNEL
    block = (home / "manifest").read_bytes()
    trust = TrustPolicy.of_key(KEY.public_key, name="publisher")
    trust.check_pipeline(decode_manifest(block), block, (home / "bundle").read_text())


async def test_a_pipeline_goes_to_a_broker_and_to_a_node(
    kubo_daemon: KuboDaemon, tmp_path: Path, pipeline: Path
) -> None:
    async with local_broker(tmp_path / "broker") as broker:
        to_broker = ("--broker", broker.url, "--api-key", await broker.account())
        report = await publish(pipeline, *to_broker, "--kubo", kubo_daemon.api)
        cid = str(report["pipeline"])
        assert report["published"] is True
        assert report["artifacts"] == {"kernel.wasm": add_bytes(KERNEL, put=None)}
        (pinned,) = report["pinned"]  # type: ignore[misc]
        assert pinned["kubo"] == kubo_daemon.api
        # The CIDs are those that the broker knows, and lead to the same bytes.
        view: PipelineView = await broker.call("GET", f"/v1/pipelines/{cid}", reply=PipelineView)
        assert kubo_daemon.run("cat", pinned["bundle"]).decode() == view.bundle
        assert kubo_daemon.run("block", "get", cid) == view.manifest
        theirs = kubo_daemon.run("dag", "export", cid)
        assert blocks(theirs) == blocks(await broker.call("GET", f"/ipfs/{cid}?format=car"))
    for number, source in enumerate(sources(kubo_daemon)):
        await check_fetched(cid, pinned["bundle"], source, tmp_path / str(number))


def blocks(car: bytes) -> dict[Cid, bytes]:
    found: dict[Cid, bytes] = {}
    import_car(io.BytesIO(car), put=found.__setitem__, bytes_max=len(car))
    return found


async def test_a_pipeline_goes_to_nodes_alone_and_stays(
    kubo_daemon: KuboDaemon, tmp_path: Path, pipeline: Path
) -> None:
    async with local_broker(tmp_path / "broker") as broker:
        report = await publish(pipeline, "--kubo", kubo_daemon.api, "--kubo", kubo_daemon.api)
        assert (report["published"], report["sent_blocks"]) == (False, 0)
        first, second = report["pinned"]  # type: ignore[misc]
        assert first == second
        account = await broker.account()
        async with AsyncClient(broker.url, api_key=account) as client:
            with pytest.raises(UnknownPipeline) as unlisted:
                await client.submit(str(report["pipeline"]), b"", max_price="0.01")
        assert (unlisted.value.fault, unlisted.value.facts) == ("submitter", {"pipeline": report["pipeline"]})
        assert "--broker" in unlisted.value.hint
        # As the hint says: the pipeline stays what it is, and the broker now has it too.
        again = await publish(pipeline, "--broker", broker.url, "--api-key", account)
        assert (again["pipeline"], again["published"]) == (report["pipeline"], True)
        await broker.call("GET", f"/v1/pipelines/{report['pipeline']}")
    kubo_daemon.run("repo", "gc")
    listed = kubo_daemon.run("pin", "ls", "--type=recursive").decode()
    assert str(report["pipeline"]) in listed
    assert first["bundle"] in listed
    await check_fetched(str(report["pipeline"]), first["bundle"], sources(kubo_daemon)[0], tmp_path / "home")


async def test_a_file_that_changed_meanwhile_is_not_pinned(kubo_daemon: KuboDaemon, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(random.Random(6).randbytes(600_000))
    artifact = Artifact.of("kernel", path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    signed = SignedPipeline(NOOP.cid, NOOP.block, sign_bytes(NOOP.block, KEY), {artifact.cid: artifact})
    before = Kubo(kubo_daemon.api).pins()
    with pytest.raises(ContentMismatch, match="kernel"):
        publish_to_kubo(signed, Kubo(kubo_daemon.api), progress=lambda _: None)
    assert Kubo(kubo_daemon.api).pins() == before


async def test_a_worker_fetches_from_the_node(kubo_daemon: KuboDaemon, tmp_path: Path) -> None:
    async with lent_device(tmp_path) as device:
        artifact = Artifact.of("noop", tradepost_kernels.load("noop"))
        signed = SignedPipeline(
            NOOP.cid, NOOP.block, sign_bytes(NOOP.block, device.broker.publisher), {artifact.cid: artifact}
        )
        publish_to_kubo(signed, Kubo(kubo_daemon.api), progress=lambda _: None)
        device.broker.blocks.clear()  # the broker tells of the pipeline, and has nothing of it
        save_settings(tmp_path / FILE_NAME, {"gateways": kubo_daemon.gateway})
        async with device.worker():
            await device.broker.send(device.broker.grant(NOOP, sample_input()))
            delivered = await device.broker.next(Deliver)
    assert delivered.output == sample_input()
