"""What a program learns of a job that has ended: its price and receipts, also where it failed."""

from __future__ import annotations

import copy
import pickle
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pytest

from tradepost import Client, Result
from tradepost.client.results import check_result
from tradepost.errors import (
    Fault,
    InvalidCall,
    InvalidReceipt,
    KernelTrap,
    OtherInput,
    ResultTimeout,
    TradepostError,
)
from tradepost.protocol import JobStatus
from tradepost.testing.broker_thread import FakeBrokerThread

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def x(value: float = 1.0) -> dict[str, Any]:
    return {"x": np.array([value], dtype=np.float32)}


@pytest.fixture
def trapped(fake: FakeBrokerThread, client: Client) -> TradepostError:
    """The error of a job that failed in a verified way, so that it was paid for."""
    fake.broker.hold = True
    handle = client.submit(PIPELINE, x(), max_price=1)
    problem = KernelTrap("out of bounds", stage="top").to_problem()
    view = fake.broker.jobs.views[handle.id]
    fake.broker.jobs.views[handle.id] = msgspec.structs.replace(
        view, status=JobStatus.FAILED, problem=problem
    )
    fake.run(fake.broker.release())
    with pytest.raises(KernelTrap) as caught:
        handle.result(60)
    return caught.value


def test_a_failed_job_that_was_charged_says_so(trapped: TradepostError) -> None:
    assert (trapped.job, trapped.price, len(trapped.receipts)) == ("job-0", Decimal("0.001"), 1)
    assert trapped.facts == {"job": "job-0", "price_microcredits": 1000}
    assert "  job:   job-0, for which 0.001 credits were paid" in trapped.diagnostics().splitlines()
    assert trapped.to_problem().facts["price_microcredits"] == 1000


def test_an_error_is_copied_and_pickled_whole(trapped: TradepostError) -> None:
    for again in (copy.copy(trapped), pickle.loads(pickle.dumps(trapped))):
        assert type(again) is KernelTrap
        assert (again.detail, again.stage, again.job, again.price) == (
            trapped.detail,
            "top",
            "job-0",
            trapped.price,
        )
        assert again.diagnostics() == trapped.diagnostics()


def test_a_failed_job_is_asked_for_once(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    handle = client.submit(PIPELINE, x(), max_price=1)
    client.cancel(handle.id)
    with pytest.raises(TradepostError):
        handle.result(60)
    assert handle.future() is handle.future()


def test_a_result_has_a_short_repr(client: Client) -> None:
    result = client.submit(PIPELINE, {"x": np.zeros(10_000, np.float32)}, max_price=1).result(60)
    assert repr(result) == "<Result of job job-0: y F32[10000]; 0.001 credits>"
    assert result == result  # noqa: PLR0124 - comparing arrays would raise
    many = Result(
        job="j",
        document=b"",
        tensors={f"t{n}": np.zeros(1) for n in range(1000)},
        metadata={},
        price=Decimal(1),
        receipts=(),
        verification=result.verification,
        seconds=1.0,
    )
    assert len(repr(many)) < 200


def test_a_timeout_is_both(client: Client) -> None:
    assert issubclass(ResultTimeout, TimeoutError)
    error = ResultTimeout("late", job="j")
    assert (str(error), error.detail, error.exit_code) == ("late", "late", 10)
    assert type(TradepostError.from_problem(error.to_problem())) is ResultTimeout
    assert client is not None


# Jobs that another program submitted


def test_an_attached_job_gives_its_result(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    submitted = client.submit(PIPELINE, x(), max_price=1)
    attached = client.attach(submitted.id, input_cid=submitted.input_cid)
    assert attached.future().done() is False
    fake.run(fake.broker.release())
    assert attached.result(60)["y"].tolist() == [2]
    again = client.attach(submitted.id)
    assert again.result(60).document == submitted.result(60).document
    assert again.cancel() is False


def test_an_attached_job_is_cancelled(fake: FakeBrokerThread, client: Client) -> None:
    fake.broker.hold = True
    submitted = client.submit(PIPELINE, x(), max_price=1)
    assert client.attach(submitted.id).cancel() is True
    assert client.attach(submitted.id).cancel() is True
    assert submitted.cancel() is True


def test_an_attached_job_of_another_input_is_refused(client: Client) -> None:
    one = client.submit(PIPELINE, x(1), max_price=1)
    other = client.submit(PIPELINE, x(2), max_price=1)
    with pytest.raises(InvalidReceipt):
        client.attach(one.id, input_cid=other.input_cid).result(60)
    assert client.attach(one.id, input_cid=one.input_cid).result(60)["y"].tolist() == [2]


def test_an_attached_jobs_receipts_are_about_one_input(fake: FakeBrokerThread, client: Client) -> None:
    one = client.submit(PIPELINE, x(1), max_price=1)
    other = client.submit(PIPELINE, x(2), max_price=1)
    one.result(60)
    other.result(60)
    views = fake.broker.jobs.views
    mixed = views[one.id].receipts + views[other.id].receipts
    views[one.id] = msgspec.structs.replace(views[one.id], receipts=mixed)
    with pytest.raises(InvalidReceipt):
        client.attach(one.id).result(60)


@pytest.mark.parametrize(
    "wrong", ["bad", "", 5, b"bafy", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG", "b" * 59]
)
def test_what_is_not_a_cid_is_the_callers_mistake(client: Client, wrong: Any) -> None:
    submitted = client.submit(PIPELINE, x(), max_price=1)
    with pytest.raises(InvalidCall, match=r"input_cid is .*; it must be the CID of an input") as caught:
        client.attach(submitted.id, input_cid=wrong)
    assert repr(wrong) in caught.value.detail


def test_another_input_is_named_beside_the_one_that_was_given(client: Client) -> None:
    one, other = (client.submit(PIPELINE, x(value), max_price=1) for value in (1, 2))
    with pytest.raises(OtherInput) as caught:
        client.attach(one.id, input_cid=other.input_cid).result(60)
    assert str(one.input_cid) in caught.value.detail
    assert str(other.input_cid) in caught.value.detail
    assert caught.value.fault is Fault.SUBMITTER


def test_receipts_of_another_job_are_named_with_both(client: Client) -> None:
    one, other = (client.submit(PIPELINE, x(value), max_price=1) for value in (1, 2))
    output = one.result(60).document
    other.result(60)
    view = msgspec.structs.replace(client.job(other.id), job=one.id)
    with pytest.raises(InvalidReceipt, match=f"job {other.id}.*job {one.id}"):
        check_result(view, output, pipeline=PIPELINE, input_cid=one.input_cid)
    view = client.job(other.id)
    with pytest.raises(InvalidReceipt, match=f"pipeline {PIPELINE}.*pipeline bafy"):
        check_result(view, output, pipeline="bafy", input_cid=other.input_cid)
    with pytest.raises(InvalidReceipt, match=f"input {other.input_cid}.*input {one.input_cid}") as caught:
        check_result(view, output, pipeline=PIPELINE, input_cid=one.input_cid)
    assert type(caught.value) is InvalidReceipt  # the client made this CID itself, so it is no mistake


@pytest.mark.parametrize("wrong", [float("nan"), "5", "٣", True, [1]])
def test_a_wrong_timeout_is_refused_by_each_way_to_wait(client: Client, wrong: Any) -> None:
    handle = client.submit(PIPELINE, x(), max_price=1)
    for wait in (handle.result, handle.future().result, handle.future().exception):
        with pytest.raises(InvalidCall, match=r"timeout is .*; it must be a number of seconds"):
            wait(wrong)


@pytest.mark.parametrize(
    ("timeout", "shown"), [(-1, "0"), (0, "0"), (np.float32(0.01), "0.01"), (-np.inf, "0")]
)
def test_a_deadline_that_has_passed_is_a_timeout(
    fake: FakeBrokerThread, client: Client, timeout: Any, shown: str
) -> None:
    fake.broker.hold = True
    handle = client.submit(PIPELINE, x(), max_price=1)
    with pytest.raises(ResultTimeout, match=f"has no result after {shown} s"):
        handle.result(timeout)
    with pytest.raises(TimeoutError):
        handle.future().result(timeout)
