"""A result that is found wrong later: programs are told, and asking again gives what holds now."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tradepost import AsyncClient, Client, TensorDocument, TradepostError
from tradepost.client.verdict_feed import VerdictChanges, VerdictFeed
from tradepost.errors import ClientClosed, InvalidCall, ResultTimeout, ResultWithdrawn
from tradepost.protocol import JobStatus, JobView, OnWrong
from tradepost.testing.broker_thread import FakeBrokerThread
from tradepost.testing.fake_broker import API_KEY

PIPELINE = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def x(value: float = 1.0) -> dict[str, Any]:
    return {"x": np.array([value], dtype=np.float32)}


def y(value: float) -> TensorDocument:
    return TensorDocument(tensors={"y": np.array([value], dtype=np.float32)})


def test_a_withdrawn_result_raises_when_it_is_asked_for_again(fake: FakeBrokerThread, client: Client) -> None:
    changes = client.verdict_changes()
    job = client.submit(PIPELINE, x(), max_price=1)
    first = job.future()
    assert job.result(60)["y"].tolist() == [2]
    assert job.future() is first
    fake.run(fake.broker.withdraw(job.id))
    assert next(changes).status is JobStatus.WITHDRAWN
    with pytest.raises(ResultWithdrawn) as caught:
        job.result(60)
    assert caught.value.job == job.id
    assert first.result(0)["y"].tolist() == [2]  # a future's result is what it was
    assert job.future() is job.future() is not first
    with pytest.raises(ResultWithdrawn):
        client.attach(job.id).result(60)


def test_a_corrected_result_is_what_asking_again_gives(fake: FakeBrokerThread, client: Client) -> None:
    changes = client.verdict_changes()
    job = client.submit(PIPELINE, x(), max_price=1)
    assert job.result(60).corrected_at is None
    fake.run(fake.broker.correct(job.id, y(7)))
    view = next(changes)
    assert (view.job, view.status) == (job.id, JobStatus.ACCEPTED)
    result = job.result(60)
    assert result["y"].tolist() == [7]
    assert result.price == 0
    assert result.corrected_at == view.verdict_changed_at
    assert [entry.job for entry in client.jobs(changed=True).jobs] == [job.id]


def test_a_job_that_is_run_again_is_waited_for_again(fake: FakeBrokerThread, client: Client) -> None:
    changes = client.verdict_changes()
    job = client.submit(PIPELINE, x(), max_price=1)
    job.result(60)
    fake.broker.hold = True
    fake.run(fake.broker.redo(job.id, y(9)))
    assert next(changes).status is JobStatus.RUNNING
    assert not job.done()
    with pytest.raises(ResultTimeout):
        job.result(0.05)
    fake.run(fake.broker.release())
    assert job.result(60)["y"].tolist() == [9]
    assert job.future() is job.future()


def test_what_changed_while_the_stream_was_broken_is_learnt_when_it_is_back(
    fake: FakeBrokerThread, client: Client
) -> None:
    changes = client.verdict_changes()
    job = client.submit(PIPELINE, x(), max_price=1)
    job.result(60)
    fake.run(fake.broker.drop())
    fake.run(fake.broker.withdraw(job.id))
    assert next(changes).job == job.id
    assert client.submit(PIPELINE, x(), max_price=1).result(60)["y"].tolist() == [2]


def test_the_changes_end_with_the_client(fake: FakeBrokerThread) -> None:
    ended: list[BaseException] = []
    with Client(fake.url, api_key=API_KEY) as client:
        changes = client.verdict_changes()

        def wait() -> None:
            try:
                next(changes)
            except ClientClosed as error:
                ended.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
    waiting.join(30)
    assert len(ended) == 1


async def test_several_programs_of_one_account_are_told(fake: FakeBrokerThread) -> None:
    async with (
        AsyncClient(fake.url, api_key=API_KEY) as one,
        AsyncClient(fake.url, api_key=API_KEY) as other,
    ):
        feeds = [client.open_stream().verdict_feed() for client in (one, other)]
        jobs = [await client.submit(PIPELINE, x(), max_price=1) for client in (one, other)]
        for job in jobs:
            await job.result(60)
        fake.run(fake.broker.withdraw(jobs[0].id))
        assert [(await feed.next()).job for feed in feeds] == [jobs[0].id] * 2


@pytest.mark.parametrize("on_wrong", ["refund", OnWrong.REFUND])
def test_the_submitter_says_what_to_do(fake: FakeBrokerThread, client: Client, on_wrong: Any) -> None:
    client.submit(PIPELINE, x(), max_price=1, on_wrong=on_wrong).result(60)
    client.submit(PIPELINE, x(), max_price=1).result(60)
    assert [request.on_wrong for request in fake.broker.requests] == [OnWrong.REFUND, OnWrong.REDO]


@pytest.mark.parametrize("on_wrong", ["", "REDO", None, 1, ["redo"]])
def test_anything_else_is_refused_before_it_is_sent(client: Client, on_wrong: Any) -> None:
    with pytest.raises(InvalidCall, match="it must be 'redo' or 'refund'"):
        client.submit(PIPELINE, x(), max_price=1, on_wrong=on_wrong)


class ClosingFeed(VerdictFeed):
    """A feed during whose delivery another thread closes one: here, all of them."""

    def __init__(self, changes: VerdictChanges) -> None:
        super().__init__(changes)
        self.all: list[VerdictFeed] = []

    def post(self, news: JobView | TradepostError) -> None:
        super().post(news)
        for feed in self.all:
            feed.close()


@pytest.mark.parametrize("is_end", [False, True], ids=["news", "end"])
async def test_a_feed_may_be_closed_while_news_are_delivered(is_end: bool) -> None:
    changes = VerdictChanges()
    feeds = [ClosingFeed(changes) for _ in range(3)]
    for feed in feeds:
        feed.all = list(feeds)
        changes._feeds.add(feed)
    if is_end:
        changes.fail(ClientClosed())
        for feed in feeds:
            with pytest.raises(ClientClosed):
                await feed.next()
    else:
        view = JobView(job="job-1", status=JobStatus.WITHDRAWN, pipeline="", submitted_at=0.0)
        changes.take(view)
        assert [await feed.next() for feed in feeds] == [view] * 3
