"""What an admitted worker sees of a broker: one suite over the worker's fake broker and the real one."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tradepost.content import BLOCK_BYTES_MAX, add_bytes, cid_of_block
from tradepost.errors import (
    ContentTooLarge,
    InvalidCid,
    InvalidReceipt,
    LeaseGone,
    NotAcceptable,
    RunnerFailed,
    TradepostError,
    Unauthorized,
    UnknownCid,
    UnknownPipeline,
    UploadMismatch,
)
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    Acknowledged,
    GiveBack,
    GiveBackReason,
    Grant,
    Heartbeat,
    PipelineView,
    Recall,
    UpdateOffer,
)
from tradepost_broker.testing import FakeWorker, sample_input
from worker_sides import NONCE_BYTES, Side, expect

ABSENT = add_bytes(b"nobody put this here", put=None)


# Leases


async def test_a_result_is_acknowledged_and_the_lease_is_gone(side: Side, worker: FakeWorker) -> None:
    await worker.send(UpdateOffer(worker.offer), Heartbeat(running=0))
    await side.grant()
    grant = await expect(worker, Grant)
    assert (grant.pipeline, grant.input, grant.input_cid) == (side.pipeline, sample_input(), None)
    assert len(grant.nonce) == NONCE_BYTES
    await worker.answer(grant)
    assert await expect(worker, Acknowledged) == Acknowledged(grant.lease)
    path, nonce = f"/v1/leases/{grant.lease}/blocks/{ABSENT}", f"Lease {grant.nonce.hex()}"
    assert type(await side.refusal("GET", path, authorization=nonce)) is LeaseGone


async def test_a_reconnected_worker_is_told_its_open_leases(side: Side, worker: FakeWorker) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    await worker.disconnect()
    worker.unfinished["ended"] = grant
    welcome = await worker.connect()
    assert welcome.leases == (grant.lease,)
    assert (await expect(worker, Recall)).lease == "ended"


async def test_a_lease_that_a_reconnected_worker_does_not_name_is_granted_again(
    side: Side, worker: FakeWorker
) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    await worker.disconnect()
    worker.unfinished.clear()
    welcome = await worker.connect()
    assert welcome.leases == ()
    again = await expect(worker, Grant)
    assert msgspec.structs.replace(again, left_s=grant.left_s) == grant


@pytest.mark.parametrize(
    "changes", [{"nonce": bytes(16)}, {"job": "another"}, {"broker": "another"}], ids=str
)
async def test_a_receipt_of_something_else_is_acknowledged_with_the_problem(
    side: Side, worker: FakeWorker, changes: dict[str, Any]
) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    await worker.answer(grant, **changes)
    acknowledged = await expect(worker, Acknowledged)
    assert acknowledged.lease == grant.lease
    assert type(TradepostError.from_problem(acknowledged.problem)) is InvalidReceipt


async def test_a_lease_is_given_back(side: Side, worker: FakeWorker) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    problem = RunnerFailed("no luck").to_problem()
    await worker.send(GiveBack(lease=grant.lease, reason=GiveBackReason.FAILED, problem=problem))
    assert await expect(worker, Acknowledged) == Acknowledged(grant.lease)


async def test_a_lease_that_is_not_known_is_acknowledged(side: Side, worker: FakeWorker) -> None:
    await side.grant()
    grant = await expect(worker, Grant)
    lost = msgspec.structs.replace(grant, lease="another")
    await worker.answer(lost)
    acknowledged = await expect(worker, Acknowledged)
    assert acknowledged.lease == "another"
    assert type(TradepostError.from_problem(acknowledged.problem)) is LeaseGone
    problem = RunnerFailed("no luck").to_problem()
    await worker.send(GiveBack(lease="another", reason=GiveBackReason.FAILED, problem=problem))
    assert (await expect(worker, Acknowledged)).lease == "another"


# Content


async def test_a_leases_blocks_are_for_its_nonce(side: Side, worker: FakeWorker) -> None:
    document = encode(TensorDocument({"x": np.zeros(INLINE_BYTES_MAX // 4, dtype=np.float32)}))
    root = await side.grant_stored(document)
    grant = await expect(worker, Grant)
    assert (grant.input, grant.input_cid) == (None, root)
    assert await worker.fetch_input(grant) == document
    blocks, nonce = f"/v1/leases/{grant.lease}/blocks", f"Lease {grant.nonce.hex()}"
    response, _ = await side.ask("GET", f"{blocks}/{root}", authorization=nonce)
    assert (response.status, response.content_type) == (200, "application/octet-stream")
    cid = add_bytes(b"output", put=None)
    for _ in range(2):
        response, body = await side.ask("PUT", f"{blocks}/{cid}", authorization=nonce, body=b"output")
        assert (response.status, msgspec.json.decode(body)) == (201, {"cid": cid})
    other = f"Lease {bytes(16).hex()}"
    cases: list[tuple[str, str, str, bytes | None, type[TradepostError]]] = [
        ("GET", f"{blocks}/{root}", "", None, Unauthorized),
        ("GET", f"{blocks}/{root}", other, None, Unauthorized),
        ("GET", f"/v1/leases/another/blocks/{root}", nonce, None, Unauthorized),
        ("GET", f"{blocks}/{ABSENT}", nonce, None, UnknownCid),
        ("GET", f"{blocks}/nonsense", nonce, None, InvalidCid),
        ("PUT", f"{blocks}/{cid}", other, b"output", Unauthorized),
        ("PUT", f"{blocks}/{cid}", nonce, b"other bytes", UploadMismatch),
        ("PUT", f"{blocks}/nonsense", nonce, b"output", InvalidCid),
        ("PUT", f"{blocks}/{cid}", nonce, bytes(BLOCK_BYTES_MAX + 1), ContentTooLarge),
    ]
    for method, path, authorization, body_sent, expected in cases:
        error = await side.refusal(method, path, authorization=authorization, body=body_sent)
        assert type(error) is expected, (method, path, authorization)


async def test_published_pipelines_are_public(side: Side) -> None:
    response, body = await side.ask("GET", f"/v1/pipelines/{side.pipeline}")
    assert (response.status, response.content_type) == (200, "application/json")
    view = msgspec.json.decode(body, type=PipelineView)
    assert view.pipeline == side.pipeline
    assert cid_of_block(view.manifest, "dag-cbor") == side.pipeline
    assert view.bundle
    for cid in (ABSENT, "nonsense"):
        error = await side.refusal("GET", f"/v1/pipelines/{cid}")
        assert type(error) is UnknownPipeline
        assert error.facts == {"pipeline": cid}


async def test_published_blocks_are_at_a_trustless_gateway(side: Side) -> None:
    path = f"/ipfs/{side.artifact}"
    by_query, raw = await side.ask("GET", f"{path}?format=raw")
    by_header, same = await side.ask("GET", path, accept="application/vnd.ipld.raw")
    assert raw == same
    assert add_bytes(raw, put=None) == side.artifact
    for response in (by_query, by_header):
        assert (response.status, response.content_type) == (200, "application/vnd.ipld.raw")
        assert response.headers["ETag"]
    response, car = await side.ask("GET", f"{path}?format=car")
    assert response.content_type == "application/vnd.ipld.car"
    assert raw in car
    assert isinstance(await side.refusal("GET", path), NotAcceptable)
    assert isinstance(await side.refusal("GET", f"/ipfs/{ABSENT}?format=raw"), UnknownCid)
    assert isinstance(await side.refusal("GET", "/ipfs/nonsense?format=raw"), InvalidCid)


async def test_the_broker_says_that_it_is_well_and_what_time_it_is(side: Side) -> None:
    response, body = await side.ask("GET", "/healthz")
    assert (response.status, msgspec.json.decode(body)) == (200, {"status": "ok"})
    assert response.headers["Date"]
