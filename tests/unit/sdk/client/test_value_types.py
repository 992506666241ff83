"""Values that the SDK returns: what Python can ask of one, they answer, and what they are not, they say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from tradepost import AsyncClient, Client, JobHandle, Requirements, Result, TensorDocument
from tradepost.client.inputs import document_bytes
from tradepost.errors import InvalidCall, KernelTrap, TradepostError
from tradepost.protocol import JobStatus, JobView, PipelineView
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
REPR_CHARS_MAX = 1000


@pytest.fixture
def result(client: Client) -> Result:
    return client.submit(PIPELINE, {"x": np.ones(2, np.float32)}, max_price=1).result(60)


def copies_of(value: Any) -> list[Any]:
    return [copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))]


# Results and documents


def test_a_result_is_a_read_only_mapping_of_its_tensors(result: Result) -> None:
    assert isinstance(result, Mapping)
    assert ("y" in result, "x" in result, 0 in result) == (True, False, False)
    assert (list(result), len(result), list(result.keys())) == (["y"], 1, ["y"])
    assert [(name, tensor.tolist()) for name, tensor in result.items()] == [("y", [2, 2])]
    assert result.get("x") is None
    assert dict(result)["y"] is result["y"]
    with pytest.raises(KeyError, match="x"):
        result["x"]
    with pytest.raises(TypeError):
        result["y"] = np.zeros(2)  # type: ignore[index]


def test_a_result_equals_its_copies_and_is_hashed_as_they_are(client: Client, result: Result) -> None:
    other = client.submit(PIPELINE, {"x": np.ones(2, np.float32)}, max_price=1).result(60)
    assert (result == other, result != other, result == dict(result), result == 5) == (
        False,
        True,
        False,
        False,
    )
    for again in copies_of(result):
        assert type(again) is Result
        assert again == result
        assert {again: 1}[result] == 1
        assert again["y"].tolist() == [2, 2]
        assert not again["y"].flags.writeable
        assert (again.price, again.receipts, again.metadata) == (
            result.price,
            result.receipts,
            result.metadata,
        )


def test_a_document_is_a_read_only_mapping_of_its_tensors() -> None:
    document = TensorDocument(tensors={"b": np.ones(2), "a": np.zeros(1)}, metadata={"k": "v"})
    assert isinstance(document, Mapping)
    assert ("a" in document, "k" in document, 0 in document) == (True, False, False)
    assert (list(document), len(document)) == (["b", "a"], 2)
    assert (document == {}, document == 5, document == TensorDocument(tensors={})) == (False, False, False)
    assert not TensorDocument(tensors={})
    for again in copies_of(document):
        assert again == document
        assert again.metadata == {"k": "v"}
    with pytest.raises(TypeError):
        hash(document)


def test_documents_that_have_no_bytes_are_compared_all_the_same() -> None:
    document = TensorDocument(tensors={"a": np.array([1j])})
    assert document == document  # noqa: PLR0124
    assert document != TensorDocument(tensors={"a": np.array([1j])})
    assert document != TensorDocument(tensors={"a": np.array([1.0])})


def test_documents_are_short_in_a_log() -> None:
    document = TensorDocument(
        tensors={f"t{n}": np.zeros((n, 2)) for n in range(1000)}, metadata={"k": "v" * 9999}
    )
    assert repr(document).startswith("<TensorDocument: t0 F64[0, 2], t1 F64[1, 2],")
    assert "…" in repr(document)
    assert len(repr(document)) < REPR_CHARS_MAX
    assert repr(TensorDocument(tensors={"a": np.array([1j])})) == "<TensorDocument: a complex128[1]>"
    assert repr(TensorDocument(tensors={"a": [1]})) == "<TensorDocument: a list>"  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "one", [{"x": np.ones(1)}, TensorDocument(tensors={"x": np.ones(1)}), b"", bytearray(9), "x"]
)
def test_one_input_is_not_many(client: Client, one: Any) -> None:
    with pytest.raises(InvalidCall, match="iterable of inputs"):
        client.map(PIPELINE, one, max_price=1)


def test_asynchronous_inputs_are_for_asyncio(client: Client) -> None:
    async def inputs() -> AsyncIterator[dict[str, Any]]:
        yield {"x": np.ones(1)}

    with pytest.raises(InvalidCall, match="iterable of inputs"):
        client.map(PIPELINE, inputs(), max_price=1)  # type: ignore[arg-type]


def test_a_result_is_not_many_inputs(client: Client, result: Result) -> None:
    with pytest.raises(InvalidCall, match="iterable of inputs"):
        client.map(PIPELINE, result, max_price=1)
    assert document_bytes(result) == result.document


# Views


def test_views_are_short_in_a_log_copied_and_pickled(client: Client, result: Result) -> None:
    view = client.job(result.job)
    large = JobView(
        job="j",
        status=JobStatus.ACCEPTED,
        pipeline=PIPELINE,
        submitted_at=1.5,
        output=bytes(1 << 20),
        receipts=result.receipts * 50,
    )
    pipeline = PipelineView(pipeline=PIPELINE, manifest=bytes(200_000), bundle="b" * 60_000)
    for one in (
        view,
        large,
        pipeline,
        client.jobs(),
        result.verification,
        Requirements(isolation=("seccomp",)),
    ):
        assert len(repr(one)) < REPR_CHARS_MAX, repr(one)
        for again in copies_of(one):
            assert again == one
            assert hash(again) == hash(one)
    assert "output=<1,048,576 bytes>" in repr(large)
    assert (
        repr(Requirements(isolation=("seccomp",))) == "Requirements(memory_bytes=0, isolation=('seccomp',))"
    )


# Errors


KINDS = sorted({*TradepostError._by_code.values()}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_crosses_a_process_whole(kind: type[TradepostError]) -> None:
    error = kind("this time", stage="top", hint="do this", number=7)
    error.job, error.price = "job-0", Decimal("0.5")
    error.add_note("a note")
    for again in copies_of(error):
        assert type(again) is kind
        assert (again.args, vars(again)) == (error.args, vars(error))
        assert again.diagnostics() == error.diagnostics()


def test_problems_of_failed_jobs_can_be_told_apart() -> None:
    problem = KernelTrap("why", number=7).to_problem()
    views = [
        JobView(job="j", status=JobStatus.FAILED, pipeline=PIPELINE, submitted_at=1.5, problem=problem)
        for _ in range(2)
    ]
    assert len(set(views)) == 1


# What stands for a connection


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_stands_for_a_connection_says_that_it_cannot_be_copied(
    client: Client, fake: FakeBrokerThread, copying: Callable[[Any], Any]
) -> None:
    fake.broker.hold = True
    handle = client.submit(PIPELINE, {"x": np.ones(1)}, max_price=1)
    apart = AsyncClient(fake.url, api_key=API_KEY)
    for one in (client, apart, handle, handle._handle, handle.future()):
        with pytest.raises(InvalidCall, match=r"cannot be copied or pickled") as caught:
            copying(one)
        assert type(one).__name__ in caught.value.detail
        assert API_KEY not in str(caught.value)
    assert "attach" in caught.value.hint


def test_a_client_is_named_by_its_broker_and_its_state(client: Client, fake: FakeBrokerThread) -> None:
    assert repr(client) == f"<Client of {fake.url}, open>"
    closed = Client(fake.url, api_key="secret")
    assert repr(closed) == f"<Client of {fake.url}, closed>"
    assert repr(AsyncClient(fake.url, api_key="secret")) == f"<AsyncClient of {fake.url}, closed>"


def test_handles_are_told_apart_by_identity(client: Client) -> None:
    one = client.submit(PIPELINE, {"x": np.ones(1, np.float32)}, max_price=1)
    assert isinstance(one, JobHandle)
    assert len({one, client.attach(one.id)}) == 2
    assert one.id in repr(one.future())
    assert "finished" in repr(one.future()) or "running" in repr(one.future())
