"""Every refusal over HTTP is typed, says whose fault it is, and leaves the books as they were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tradepost.content import add_bytes
from tradepost.errors import (
    ContentTooLarge,
    DeadlineExceeded,
    Fault,
    InlineInputTooLarge,
    InsufficientFunds,
    InvalidBundle,
    InvalidCid,
    InvalidInput,
    InvalidPipeline,
    InvalidRequest,
    InvalidSignature,
    InvalidTensorDocument,
    NoEligibleWorker,
    NotAcceptable,
    PipelineQuarantined,
    PriceCapTooLow,
    Problem,
    QuotaExceeded,
    TradepostError,
    Unauthorized,
    UnknownCid,
    UnknownJob,
    UnknownPipeline,
    UnknownWorker,
    UnsignedArtifact,
    UntrustedPipeline,
    UploadMismatch,
    WorkerLost,
)
from tradepost.pipeline.manifest import PipelineLimits
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    AccountView,
    GiveBack,
    GiveBackReason,
    Grant,
    JobStatus,
    Requirements,
)
from tradepost_broker.content.kept_documents import BLOCK_BYTES_MIN
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.testing import LocalBroker, ManualClock, SamplePipeline, local_broker
from tradepost_broker.testing.local_broker import job_request

FUNDS = 1_000_000
ABSENT = add_bytes(b"nobody has this", put=None)


#: Nobody waits for workers to come back after the start.
AT_ONCE = MarketPolicy(audit_rate=0.0, reconnect_s=0.0)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[LocalBroker]:
    async with local_broker(tmp_path, policy=AT_ONCE) as broker:
        yield broker


async def untouched(broker: LocalBroker, key: str) -> bool:
    view: AccountView = await broker.call("GET", "/v1/account", key=key, reply=AccountView)
    return (view.available_microcredits, view.reserved_microcredits) == (FUNDS, 0)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"pipeline": ABSENT}, UnknownPipeline),
        ({"input": None, "input_cid": ABSENT}, UnknownCid),
        ({"input": None, "input_cid": "b" + "a" * 58}, InvalidCid),
        ({"input": None}, InvalidRequest),
        ({"input_cid": ABSENT}, InvalidRequest),
        ({"input": b"not a document"}, InvalidTensorDocument),
        ({"input": encode(TensorDocument({}))}, InvalidInput),
        ({"max_price_microcredits": FUNDS + 1}, InsufficientFunds),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_a_submission_that_is_refused_reserves_nothing(
    broker: LocalBroker, changes: dict[str, Any], error: type[TradepostError]
) -> None:
    key = await broker.account(funds=FUNDS)
    pipeline = await broker.publish(key)
    with pytest.raises(error) as raised:
        await broker.submit(key, **{"pipeline": pipeline, **changes})
    assert type(raised.value) is error
    assert await untouched(broker, key)


@pytest.mark.parametrize("size", [INLINE_BYTES_MAX + 1, 3 * INLINE_BYTES_MAX])
async def test_an_inline_input_over_the_cap_is_named_as_such(broker: LocalBroker, size: int) -> None:
    key = await broker.account(funds=FUNDS)
    pipeline = await broker.publish(key)
    with pytest.raises(InlineInputTooLarge) as raised:
        await broker.submit(key, pipeline, input=b"x" * size)
    assert raised.value.facts["limit_bytes"] == INLINE_BYTES_MAX
    assert raised.value.hint
    assert await untouched(broker, key)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confidence", 1.0),
        ("confidence", 0.1),
        ("deadline_s", 0.0),
        ("patience_s", -1.0),
        ("max_price_microcredits", 0),
        ("idempotency_key", ""),
        ("surprise", 1),
    ],
)
async def test_a_request_out_of_bounds_is_refused(broker: LocalBroker, name: str, value: object) -> None:
    key = await broker.account(funds=FUNDS)
    body = msgspec.to_builtins(job_request(await broker.publish(key))) | {name: value}
    with pytest.raises(InvalidRequest):
        await broker.call("POST", "/v1/jobs", key=key, body=msgspec.json.encode(body))
    assert await untouched(broker, key)


async def test_a_body_that_is_no_text_is_refused(broker: LocalBroker) -> None:
    key = await broker.account(funds=FUNDS)
    with pytest.raises(InvalidRequest):
        await broker.call("POST", "/v1/jobs", key=key, body=b'{"pipeline": "\xff"}')


async def fails(broker: LocalBroker, key: str, pipeline: str, **changes: Any) -> Problem:
    """The problem with which a job ends that nobody can do; its reservation must be free again."""
    job = (await broker.submit(key, pipeline, patience_s=0.0, **changes)).job
    await broker.tick()
    view = await broker.result(key, job)
    assert view.status is JobStatus.FAILED
    assert await untouched(broker, key)
    assert view.problem is not None
    assert view.problem.hint
    return view.problem


async def test_no_worker_at_all(broker: LocalBroker) -> None:
    key = await broker.account(funds=FUNDS)
    problem = await fails(broker, key, await broker.publish(key))
    assert problem.code == NoEligibleWorker.code()


async def test_no_worker_with_the_capability(broker: LocalBroker) -> None:
    key = await broker.account(funds=FUNDS)
    worker = await broker.worker()
    asks = Requirements(memory_bytes=1 << 50)
    problem = await fails(broker, key, await broker.publish(key), requirements=asks)
    assert problem.code == NoEligibleWorker.code()
    await worker.disconnect()


async def test_a_price_cap_below_every_offer(broker: LocalBroker) -> None:
    key = await broker.account(funds=FUNDS)
    worker = await broker.worker(price=5000)
    problem = await fails(broker, key, await broker.publish(key), max_price_microcredits=10)
    assert problem.code == PriceCapTooLow.code()
    await worker.disconnect()


async def test_workers_that_give_every_lease_back(broker: LocalBroker) -> None:
    key = await broker.account(funds=FUNDS)
    workers = [await broker.worker(f"owner-{n}") for n in range(5)]
    job = (await broker.submit(key, await broker.publish(key), patience_s=0.0)).job
    failure = WorkerLost("the runner died").to_problem()
    for _ in range(MarketPolicy().quarantine_owners):
        holder = await _holder(workers)
        grant = await holder.expect(Grant)
        await holder.send(GiveBack(lease=grant.lease, reason=GiveBackReason.FAILED, problem=failure))
    view = await broker.result(key, job)
    assert view.problem is not None
    assert view.problem.code == PipelineQuarantined.code()
    assert view.price_microcredits > 0, "what fails on everybody is paid by its author"
    for worker in workers:
        await worker.disconnect()


async def _holder(workers: list[Any]) -> Any:
    """The worker that the lease went to."""
    waiting = {asyncio.create_task(worker.arrival(Grant)): worker for worker in workers}
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return waiting[done.pop()]


async def test_owners_that_do_not_trust_the_publisher(broker: LocalBroker) -> None:
    key = await broker.account(funds=FUNDS)
    worker = await broker.worker()
    job = (await broker.submit(key, await broker.publish(key), patience_s=0.0)).job
    grant = await worker.expect(Grant)
    refusal = UntrustedPipeline("the policy does not name it").to_problem()
    await worker.send(GiveBack(lease=grant.lease, reason=GiveBackReason.REFUSED, problem=refusal))
    view = await broker.result(key, job)
    assert view.problem is not None
    assert view.problem.code == UntrustedPipeline.code()
    assert await untouched(broker, key)
    await worker.disconnect()


async def test_a_worker_that_goes_away_in_mid_lease(tmp_path: Path) -> None:
    clock = ManualClock()
    async with local_broker(tmp_path, clock=clock) as broker:
        key = await broker.account(funds=FUNDS)
        worker = await broker.worker()
        job = (await broker.submit(key, await broker.publish(key), patience_s=0.0, deadline_s=60.0)).job
        await worker.expect(Grant)
        await worker.disconnect()
        clock.advance(61)
        await broker.tick()
        view = await broker.result(key, job)
        assert view.problem is not None
        assert view.problem.code in (DeadlineExceeded.code(), WorkerLost.code(), NoEligibleWorker.code())
        assert await untouched(broker, key)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/jobs/nope", UnknownJob),
        ("/v1/jobs/nope/output", UnknownJob),
        (f"/v1/pipelines/{ABSENT}", UnknownPipeline),
        (f"/v1/blocks/{ABSENT}", UnknownCid),
        (f"/ipfs/{ABSENT}?format=raw", UnknownCid),
        (f"/ipfs/{ABSENT}", NotAcceptable),
        ("/ipfs/nonsense?format=raw", InvalidCid),
        ("/v1/workers/nobody", UnknownWorker),
        ("/workers/nobody", UnknownWorker),
        ("/v1/client", InvalidRequest),
        ("/no/such/path", InvalidRequest),
    ],
)
async def test_what_is_not_there(broker: LocalBroker, path: str, error: type[TradepostError]) -> None:
    key = await broker.account()
    with pytest.raises(error):
        await broker.call("GET", path, key=key)


async def test_errors_of_the_framework_are_problems_too(broker: LocalBroker) -> None:
    async with broker.session.post(f"{broker.url}/v1/info") as response:
        assert response.status == 405
        assert response.content_type == "application/problem+json"
        problem = msgspec.json.decode(await response.read(), type=Problem)
        assert problem.status == 405


async def test_a_defect_shows_nothing_of_its_insides(broker: LocalBroker) -> None:
    key = await broker.account()
    pipeline = await broker.publish(key)
    broker.running.parts.store.close()
    async with broker.session.get(f"{broker.url}/v1/pipelines/not-{pipeline}") as response:
        assert response.status == 500
        text = await response.text()
    assert "sqlite" not in text.lower()
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("header", "value"), [("", ""), ("Authorization", "Bearer wrong"), ("Authorization", "Basic x")]
)
async def test_without_a_valid_key_there_is_nothing(broker: LocalBroker, header: str, value: str) -> None:
    headers = {header: value} if header else {}
    async with broker.session.get(f"{broker.url}/v1/account", headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        problem = msgspec.json.decode(await response.read(), type=Problem)
    assert problem.code == Unauthorized.code()
    assert problem.hint


# Publishing


async def upload(broker: LocalBroker, key: str, pipeline: SamplePipeline) -> None:
    for cid, data in pipeline.blocks():
        await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda request, _: replace_request(request, bundle=""), UnsignedArtifact),
        (lambda request, _: replace_request(request, bundle="{}"), InvalidBundle),
        (
            lambda request, pipeline: replace_request(
                request, bundle=replace(pipeline, name="other").request().bundle
            ),
            InvalidSignature,
        ),
        (lambda request, _: replace_request(request, manifest=b"\xa0"), InvalidPipeline),
    ],
    ids=["unsigned", "no bundle", "signature of another", "no manifest"],
)
async def test_what_cannot_be_published(broker: LocalBroker, spoil: Any, error: type[TradepostError]) -> None:
    key = await broker.account()
    pipeline = SamplePipeline()
    await upload(broker, key, pipeline)
    with pytest.raises(error):
        await broker.call("POST", "/v1/pipelines", key=key, body=spoil(pipeline.request(), pipeline))
    assert await broker.call("GET", "/v1/pipelines", reply=list[Any]) == []


def replace_request(request: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(request, **changes)


async def test_a_pipeline_needs_every_block_uploaded_by_its_publisher(broker: LocalBroker) -> None:
    alice, bob = await broker.account("alice"), await broker.account("bob")
    pipeline = SamplePipeline(kernel_bytes=600_000)  # three leaves and a node
    await upload(broker, alice, pipeline)
    blocks = pipeline.blocks()
    for cid, data in blocks[1:]:
        await broker.call("PUT", f"/v1/blocks/{cid}", key=bob, body=data)
    with pytest.raises(UnknownCid) as raised:
        await broker.call("POST", "/v1/pipelines", key=bob, body=pipeline.request())
    assert raised.value.stage == "scale"
    assert raised.value.facts == {"cid": blocks[0][0]}


async def test_limits_beyond_the_brokers_are_refused(tmp_path: Path) -> None:
    async with local_broker(tmp_path, document_bytes_max=1000) as broker:
        key = await broker.account()
        pipeline = SamplePipeline(limits=PipelineLimits(input_bytes=1000, output_bytes=1001))
        with pytest.raises(InvalidPipeline, match=r"limits\.output_bytes"):
            await broker.publish(key, pipeline)


# Blocks


async def test_blocks_are_checked_and_counted(tmp_path: Path) -> None:
    async with local_broker(tmp_path, upload_bytes_max=10_000) as broker:
        key = await broker.account()
        data = b"x" * 6_000
        cid = add_bytes(data, put=None)
        with pytest.raises(UploadMismatch) as caught:
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=b"other bytes")
        assert (caught.value.status, caught.value.fault) == (400, Fault.SUBMITTER)
        await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)
        await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)  # counted once
        more = b"y" * 6_000
        with pytest.raises(QuotaExceeded):
            await broker.call("PUT", f"/v1/blocks/{add_bytes(more, put=None)}", key=key, body=more)
        with pytest.raises(ContentTooLarge):
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=b"z" * (2 << 20) + b"z")


async def test_a_small_block_counts_as_what_it_takes_of_a_disk(tmp_path: Path) -> None:
    """Also after a restart, when the sum is taken from the database."""
    blocks = {add_bytes(data, put=None): data for data in (b"a", b"b", b"c")}
    quota = 2 * BLOCK_BYTES_MIN + 1
    async with local_broker(tmp_path, upload_bytes_max=quota) as broker:
        key = await broker.account()
        for cid, data in list(blocks.items())[:2]:
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)
        assert broker.running.parts.uploads.used_bytes("account:alice") == 2 * BLOCK_BYTES_MIN
    cid, data = list(blocks.items())[2]
    async with local_broker(tmp_path, upload_bytes_max=quota) as broker:
        assert broker.running.parts.uploads.used_bytes("account:alice") == 2 * BLOCK_BYTES_MIN
        with pytest.raises(QuotaExceeded):
            await broker.call("PUT", f"/v1/blocks/{cid}", key=key, body=data)


async def test_the_operator_is_asked_for(broker: LocalBroker) -> None:
    key = await broker.account()
    for path in ("accounts", "fund", "tokens"):
        with pytest.raises(Unauthorized):
            await broker.call("POST", f"/v1/admin/{path}", key=key, body=b"{}")
    with pytest.raises(InvalidRequest):
        await broker.fund("nobody", 5)


async def test_funding_happens_once_for_each_transfer(broker: LocalBroker) -> None:
    key = await broker.account(funds=FUNDS)
    await broker.fund("alice", 7, transfer="once")
    await broker.fund("alice", 7, transfer="once")
    view: AccountView = await broker.call("GET", "/v1/account", key=key, reply=AccountView)
    assert view.available_microcredits == FUNDS + 7
