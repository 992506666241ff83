"""What a client's program sees of a broker: one suite over the SDK's fake broker and the real one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest

from client_sides import Side, Stream, client_sides, open_stream
from tradepost.audit_log.proofs import LogProof, verify_proof
from tradepost.client.results import check_result
from tradepost.content import BLOCK_BYTES_MAX, Cid, add_bytes
from tradepost.errors import (
    ContentTooLarge,
    IdempotencyConflict,
    InlineInputTooLarge,
    InvalidCid,
    InvalidRequest,
    InvalidTensorDocument,
    JobCancelled,
    Problem,
    TradepostError,
    Unauthorized,
    UnknownCid,
    UnknownJob,
    UnknownPipeline,
    UploadMismatch,
)
from tradepost.pipeline.tensors import TensorDocument, encode
from tradepost.protocol import (
    INLINE_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    AccountView,
    CancelJob,
    EstimateRequest,
    EstimateView,
    Finished,
    JobEntry,
    JobList,
    JobStatus,
    JobView,
    QuarantineView,
    Rejected,
    Submit,
    Submitted,
    Watch,
)
from tradepost_broker.testing import sample_input

ABSENT = add_bytes(b"nobody put this here", put=None)
ENDPOINTS = [
    ("GET", "/v1/client"),
    ("GET", "/v1/account"),
    ("PUT", f"/v1/blocks/{ABSENT}"),
    ("GET", f"/v1/blocks/{ABSENT}"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/none"),
    ("DELETE", "/v1/jobs/none"),
    ("GET", "/v1/jobs/none/output"),
    ("GET", "/v1/jobs/none/proof"),
    ("DELETE", f"/v1/quarantines/{ABSENT}"),
    ("POST", "/v1/estimate"),
]


@pytest.fixture(params=["fake", "real"])
async def sides(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Side, Side]]:
    """The broker with a worker that serves, and with none: jobs wait."""
    async with client_sides(request.param, tmp_path) as sides:
        yield sides


@pytest.fixture
def side(sides: tuple[Side, Side]) -> Side:
    return sides[0]


@pytest.fixture
def holding(sides: tuple[Side, Side]) -> Side:
    """The broker whose jobs do not end by themselves."""
    return sides[1]


@pytest.fixture
async def stream(side: Side) -> AsyncIterator[Stream]:
    async with await open_stream(side) as socket:
        yield Stream(socket)


@pytest.fixture
async def holding_stream(holding: Side) -> AsyncIterator[Stream]:
    async with await open_stream(holding) as socket:
        yield Stream(socket)


# Who may ask


@pytest.mark.parametrize("key", ["wrong", ""])
async def test_every_endpoint_refuses_an_unknown_key(side: Side, key: str) -> None:
    for method, path in ENDPOINTS:
        error = await side.refusal(method, path, key=key)
        assert isinstance(error, Unauthorized), path
        assert ("header" in error.detail) is (key == ""), path


async def test_an_unknown_path_is_a_problem_too(side: Side) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("PUT", "/v1/client", 405)):
        response, body = await side.ask(method, path)
        problem = msgspec.json.decode(body, type=Problem)
        assert response.content_type == "application/problem+json"
        assert (response.status, problem.status, problem.code) == (status, status, "invalid-request")


async def test_the_stream_is_a_websocket(side: Side) -> None:
    assert isinstance(await side.refusal("GET", "/v1/client"), InvalidRequest)


# The stream


async def test_a_job_is_submitted_and_ends_with_what_the_client_checks(side: Side, stream: Stream) -> None:
    request = side.request(max_price_microcredits=100_000)
    job = await stream.submit(request)
    view = await stream.end()
    assert view.job == job
    assert view.pipeline == side.pipeline
    assert 0 < view.price_microcredits <= 100_000
    assert view.output is not None
    assert view.output_cid is None
    result = check_result(
        view, view.output, pipeline=side.pipeline, input_cid=add_bytes(request.input or b"", put=None)
    )
    assert result["y"].tolist() == [2, 4, 6, 8]


async def test_the_price_is_never_over_the_cap(side: Side, stream: Stream) -> None:
    await stream.send(Submit(1, side.request(max_price_microcredits=1)))
    answer = await stream.next()
    if isinstance(answer, Submitted):
        answer = await stream.next()
    if isinstance(answer, Finished) and answer.view.status is JobStatus.ACCEPTED:
        assert answer.view.price_microcredits <= 1
    else:
        assert isinstance(answer, Rejected | Finished)


async def test_a_key_names_one_job_and_another_request_under_it_is_refused(
    side: Side, stream: Stream
) -> None:
    request = side.request(idempotency_key="same")
    job = await stream.submit(request)
    ended = await stream.end()
    assert await stream.submit(request) == job
    assert await stream.end() == ended
    error = await stream.refusal(msgspec.structs.replace(request, confidence=0.6))
    assert isinstance(error, IdempotencyConflict)
    assert error.facts == {"job": job}


async def test_an_ended_job_is_told_again_to_those_who_watch_it(side: Side, stream: Stream) -> None:
    job = await stream.submit(side.request())
    ended = await stream.end()
    await stream.send(Watch((job,)))
    assert await stream.end() == ended


async def test_a_job_that_is_not_known_ends_at_once_for_those_who_watch_it(stream: Stream) -> None:
    await stream.send(Watch(("none",)))
    view = await stream.end()
    assert (view.job, view.status) == ("none", JobStatus.FAILED)
    assert view.problem is not None
    assert isinstance(TradepostError.from_problem(view.problem), UnknownJob)


async def test_cancelling_ends_a_job_once_and_nothing_else(holding: Side, holding_stream: Stream) -> None:
    job = await holding_stream.submit(holding.request())
    await holding_stream.send(CancelJob("none"), CancelJob(job), CancelJob(job), Watch(("marker",)))
    views = [await holding_stream.end() for _ in range(2)]
    view = next(view for view in views if view.job == job)
    assert view.status is JobStatus.CANCELLED
    assert view.finished_at is not None
    assert view.problem is not None
    assert isinstance(TradepostError.from_problem(view.problem), JobCancelled)
    await holding_stream.send(CancelJob(job), Watch((job,)))
    assert await holding_stream.end() == view


async def test_refusals_of_a_submission(side: Side, stream: Stream) -> None:
    document = sample_input()
    cases: list[tuple[dict[str, Any], type[TradepostError]]] = [
        ({"input": None}, InvalidRequest),
        ({"input": document, "input_cid": ABSENT}, InvalidRequest),
        ({"input": b"no tensor document"}, InvalidTensorDocument),
        ({"input": None, "input_cid": ABSENT}, UnknownCid),
        ({"input": None, "input_cid": "no CID"}, InvalidCid),
    ]
    for changes, expected in cases:
        error = await stream.refusal(side.request(**changes))
        assert type(error) is expected, changes
    assert await stream.submit(side.request())


async def test_a_bad_submission_leaves_its_neighbours_their_answers(side: Side, stream: Stream) -> None:
    large = side.request(input=bytes(INLINE_BYTES_MAX + 1))
    unsure = side.request(confidence=0.1)
    await stream.send(Submit(1, large), Submit(2, unsure), Submit(3, side.request()))
    answers = [await stream.next() for _ in range(4)]
    refused = {one.ref: one.problem for one in answers if isinstance(one, Rejected)}
    assert {ref: problem.code for ref, problem in refused.items()} == {
        1: InlineInputTooLarge.code(),
        2: InvalidRequest.code(),
    }
    assert refused[1].facts == {"limit_bytes": INLINE_BYTES_MAX}
    assert [one.ref for one in answers if isinstance(one, Submitted)] == [3]
    assert [one.view.status for one in answers if isinstance(one, Finished)] == [JobStatus.ACCEPTED]


@pytest.mark.parametrize("message", [b"garbage", b"\x91\xc0", b"\xdc\xff\xff", "text"], ids=repr)
async def test_what_is_no_message_closes_the_stream(stream: Stream, message: bytes | str) -> None:
    if isinstance(message, str):
        await stream.socket.send_str(message)
    else:
        await stream.socket.send_bytes(message)
    assert await stream.closing_code() == aiohttp.WSCloseCode.POLICY_VIOLATION


async def test_a_message_that_is_too_large_closes_the_stream(side: Side, stream: Stream) -> None:
    # The broker ends the connection as soon as it knows the size, which may be while it is sent.
    with contextlib.suppress(ConnectionError):
        await stream.socket.send_bytes(bytes(MESSAGE_BYTES_MAX + 1))
    async with asyncio.timeout(180):
        ended = await stream.socket.receive()
    assert ended.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    if ended.type is aiohttp.WSMsgType.CLOSE:
        assert ended.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    async with await open_stream(side) as again:
        assert await Stream(again).submit(side.request())


async def test_an_output_that_is_too_large_for_a_frame_is_fetched(side: Side, stream: Stream) -> None:
    document = encode(TensorDocument({"x": np.zeros(INLINE_BYTES_MAX // 4, dtype=np.float32)}))
    root = await put_file(side, document)
    job = await stream.submit(side.request(input=None, input_cid=root))
    view = await stream.end()
    assert view.status is JobStatus.ACCEPTED
    assert view.output is None
    response, output = await side.ask("GET", f"/v1/jobs/{job}/output")
    assert response.status == 200
    assert add_bytes(output, put=None) == view.output_cid
    check_result(view, output, pipeline=side.pipeline, input_cid=root)


# REST


async def put_file(side: Side, data: bytes) -> Cid:
    blocks: list[tuple[Cid, bytes]] = []
    root = add_bytes(data, put=lambda cid, block: blocks.append((cid, block)))
    for cid, block in blocks:
        response, body = await side.ask("PUT", f"/v1/blocks/{cid}", body=block)
        assert (response.status, msgspec.json.decode(body)) == (201, {"cid": cid})
    return root


async def test_blocks_are_checked_and_given_back(side: Side) -> None:
    root = await put_file(side, b"a block")
    response, body = await side.ask("GET", f"/v1/blocks/{root}")
    assert (response.status, response.content_type, body) == (200, "application/octet-stream", b"a block")
    assert await put_file(side, b"a block") == root
    refusals = [
        (("PUT", f"/v1/blocks/{root}", b"other bytes"), UploadMismatch),
        (("PUT", "/v1/blocks/nonsense", b"a block"), InvalidCid),
        (("PUT", f"/v1/blocks/{root}", bytes(BLOCK_BYTES_MAX + 1)), ContentTooLarge),
        (("GET", f"/v1/blocks/{ABSENT}", None), UnknownCid),
        (("GET", "/v1/blocks/nonsense", None), InvalidCid),
    ]
    for (method, path, data), expected in refusals:
        assert type(await side.refusal(method, path, body=data)) is expected, (method, path)


async def test_a_job_is_shown_and_cancelled(holding: Side, holding_stream: Stream) -> None:
    job = await holding_stream.submit(holding.request())
    path = f"/v1/jobs/{job}"
    shown = msgspec.json.decode((await holding.ask("GET", path))[1], type=JobView)
    assert shown.status in (JobStatus.QUEUED, JobStatus.RUNNING)
    assert shown == JobView(
        job=job, status=shown.status, pipeline=holding.pipeline, submitted_at=shown.submitted_at
    )
    error = await holding.refusal("GET", f"{path}/output")
    assert isinstance(error, UnknownJob)
    assert error.hint == "Only an accepted job has an output."
    response, body = await holding.ask("DELETE", path)
    view = msgspec.json.decode(body, type=JobView)
    assert (response.status, view.status) == (200, JobStatus.CANCELLED)
    assert await holding_stream.end() == view
    assert msgspec.json.decode((await holding.ask("GET", path))[1], type=JobView) == view


async def test_an_accepted_jobs_output_is_given_out(side: Side, stream: Stream) -> None:
    job = await stream.submit(side.request())
    view = await stream.end()
    response, body = await side.ask("GET", f"/v1/jobs/{job}/output")
    assert (response.status, response.content_type) == (200, "application/octet-stream")
    assert body == view.output
    assert msgspec.json.decode((await side.ask("GET", f"/v1/jobs/{job}"))[1], type=JobView) == view


async def test_an_account_lists_its_jobs_page_by_page(side: Side, stream: Stream) -> None:
    requests = [side.request(idempotency_key=str(n)) for n in range(3)]
    jobs = []
    for request in requests:
        jobs.append(await stream.submit(request))
        await stream.end()

    async def page(query: str) -> JobList:
        return msgspec.json.decode((await side.ask("GET", f"/v1/jobs{query}"))[1], type=JobList)

    first = await page("?limit=2")
    assert [entry.job for entry in first.jobs] == [jobs[2], jobs[1]]
    assert first.older == jobs[1]
    last = await page(f"?limit=2&before={first.older}")
    assert [entry.job for entry in last.jobs] == [jobs[0]]
    assert last.older is None
    assert await page("") == JobList(jobs=(*first.jobs, *last.jobs), older=None)
    shown = msgspec.json.decode((await side.ask("GET", f"/v1/jobs/{jobs[0]}"))[1], type=JobView)
    assert last.jobs[0] == JobEntry(
        job=jobs[0],
        status=JobStatus.ACCEPTED,
        pipeline=side.pipeline,
        input_cid=add_bytes(requests[0].input or b"", put=None),
        submitted_at=shown.submitted_at,
        finished_at=shown.finished_at,
        price_microcredits=shown.price_microcredits,
    )


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "1.5", "x", "", "9" * 5000, "\u0661"])
async def test_a_wrong_limit_is_refused(side: Side, limit: str) -> None:
    error = await side.refusal("GET", f"/v1/jobs?limit={limit}")
    assert isinstance(error, InvalidRequest)
    assert "1 to 1000" in error.detail


@pytest.mark.parametrize("before", ["zz", "", "%00", "z" * 5000, "\u0661", "..%2F"])
async def test_an_unknown_cursor_is_no_first_page(side: Side, stream: Stream, before: str) -> None:
    await stream.submit(side.request(idempotency_key="1"))
    await stream.end()
    error = await side.refusal("GET", f"/v1/jobs?before={before}")
    assert isinstance(error, UnknownJob)
    assert "before" in error.detail
    assert len(error.detail) < 200


async def test_an_unknown_job_is_a_problem(side: Side) -> None:
    for method, path in (("GET", "none"), ("DELETE", "none"), ("GET", "none/output"), ("GET", "none/proof")):
        error = await side.refusal(method, f"/v1/jobs/{path}")
        assert isinstance(error, UnknownJob), path
        assert error.facts == {"job": "none"}


async def test_the_log_has_the_receipts_of_a_job(side: Side, stream: Stream) -> None:
    await stream.submit(side.request())
    view = await stream.end()
    response, body = await side.ask("GET", f"/v1/jobs/{view.job}/proof?wait_s=60")
    proof = msgspec.json.decode(body, type=LogProof)
    assert (response.status, response.content_type) == (200, "application/json")
    [found] = verify_proof(proof, view.receipts)
    _, body = await side.ask("GET", f"/v1/jobs/{view.job}/proof?wait_s=60&since={found.checkpoint.size}")
    verify_proof(msgspec.json.decode(body, type=LogProof), view.receipts, kept=proof.checkpoint)
    error = await side.refusal("GET", f"/v1/jobs/{view.job}/proof?since=999999")
    assert isinstance(error, InvalidRequest)


async def test_a_quarantine_is_lifted_also_where_there_is_none(side: Side) -> None:
    for _ in range(2):
        response, body = await side.ask("DELETE", f"/v1/quarantines/{side.pipeline}")
        view = msgspec.json.decode(body, type=QuarantineView)
        assert (response.status, response.content_type) == (200, "application/json")
        assert view == QuarantineView(pipeline=side.pipeline, quarantined=False)
    error = await side.refusal("DELETE", "/v1/quarantines/nonsense")
    assert isinstance(error, UnknownPipeline)
    assert error.detail == "nonsense"


async def test_an_estimate_says_what_a_job_would_cost(side: Side) -> None:
    asked = EstimateRequest(pipeline=side.pipeline, input_bytes=100, confidence=0.75)
    response, body = await side.ask("POST", "/v1/estimate", body=msgspec.json.encode(asked))
    view = msgspec.json.decode(body, type=EstimateView)
    assert (response.status, response.content_type) == (200, "application/json")
    assert view.problem is None
    assert view.cap_microcredits is not None
    assert view.cap_microcredits > 0
    assert (view.results, view.owners) == (1, 1)
    assert view.confidence_max is not None
    assert view.confidence_max >= 0.75
    assert (view.typical_price, view.measured_runs, view.latency_p90_s, view.in_time) == (None, 0, None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"pipeline":"x"}',
        b'{"pipeline":"x","input_bytes":0}',
        b'{"pipeline":"x","input_bytes":1,"confidence":1}',
    ],
)
async def test_an_estimate_of_nonsense_is_refused(side: Side, body: bytes) -> None:
    assert isinstance(await side.refusal("POST", "/v1/estimate", body=body), InvalidRequest)


async def test_an_estimate_of_an_unknown_pipeline_is_refused(side: Side) -> None:
    body = msgspec.json.encode(EstimateRequest(pipeline="nonsense", input_bytes=1))
    assert isinstance(await side.refusal("POST", "/v1/estimate", body=body), UnknownPipeline)


async def test_the_account_has_credits(side: Side) -> None:
    response, body = await side.ask("GET", "/v1/account")
    assert response.content_type == "application/json"
    account = msgspec.json.decode(body, type=AccountView)
    assert account.available_microcredits > 0
    assert account.reserved_microcredits == 0
