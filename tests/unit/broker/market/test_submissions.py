"""What submitters, publishers and the operator bring, and how it is refused: then nothing has changed."""

from __future__ import annotations

import pytest

from tradepost.money import MICROCREDITS_MAX
from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Account, Job, LeaseState, Pipeline, Transfer
from tradepost_broker.market.model.events import (
    NotifyFinished,
    ReplyRefused,
    ReplySubmitted,
    SendAcknowledged,
    SendGrant,
    SendRecall,
    SendSettled,
)
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline

POLICY = MarketPolicy(audit_rate=0.0, hold_s=100.0, retain_s=50.0, idempotency_s=1_000.0)


@pytest.fixture
def driver() -> MarketDriver:
    """A funded submitter, a pipeline, and no workers."""
    driver = MarketDriver(policy=POLICY)
    driver.fund(amount_microcredits=250_000)
    driver.publish()
    return driver


def test_a_single_result_job_from_submission_to_payment(driver: MarketDriver) -> None:
    driver.add_worker("w0", 10)
    driver.add_worker("w1", 12)
    job = driver.submit()
    lease = f"{job}.1"
    assert driver.told() == [ReplySubmitted(job), SendGrant(lease, "w0")]
    assert driver.market.account("credits:alice") == Account(
        id="credits:alice", available_microcredits=150_000, reserved_microcredits=100_000
    )
    driver.deliver(lease)
    assert driver.told() == [
        SendAcknowledged(lease, "w0"),
        SendSettled(lease, "w0", "accepted", 1200, "one result; credibility 0.8000 reaches 0.75"),
        NotifyFinished(job),
    ]
    assert driver.market.account("credits:alice") == Account(
        id="credits:alice", available_microcredits=248_800
    )
    assert driver.market.account("held:w0").available_microcredits == 1200
    finished = driver.job(job)
    assert (finished.status, finished.paid_microcredits, finished.accepted) == (
        JobStatus.ACCEPTED,
        1200,
        (lease,),
    )
    driver.tick(99.0)
    assert driver.market.account("earned:w0").available_microcredits == 0
    driver.tick(1.0)
    assert driver.market.account("held:w0").available_microcredits == 0
    assert driver.market.account("earned:w0").available_microcredits == 1200
    driver.check()


def test_every_changed_record_is_saved_once_with_its_final_state(driver: MarketDriver) -> None:
    driver.add_worker("w0")
    job = driver.submit()
    for answer in driver.answers:
        saved = [(type(told.record), told.record.id) for told in answer if hasattr(told, "record")]
        assert len(saved) == len(set(saved))
    before = driver.job(job)
    driver.deliver(f"{job}.1")
    assert before.status is JobStatus.RUNNING, "a saved record changed afterwards"
    assert driver.job(job) == driver.market.job(job)
    assert driver.job(job) is not driver.market.job(job)


def test_funding_happens_once_per_transfer(driver: MarketDriver) -> None:
    driver.fund("bob", 100, transfer="t1")
    assert driver.fund("bob", 100, transfer="t1") == []
    assert driver.market.account("credits:bob").available_microcredits == 100
    driver.fund("bob", 101, transfer="t1")
    assert driver.refusal().code == "transfer-conflict"
    driver.fund("bob", 2 * 10**18)
    assert driver.refusal().code == "treasury-exhausted"
    driver.check()


def test_no_account_has_more_than_every_reader_can_count(driver: MarketDriver) -> None:
    driver.fund("bob", MICROCREDITS_MAX - 1, transfer="t1")
    driver.fund("bob", 2, transfer="t2")
    refusal = driver.refusal()
    assert refusal.code == "invalid-request"
    assert "an account may have 9,007,199,254.740992" in refusal.detail
    driver.fund("bob", 1, transfer="t2")
    assert driver.market.account("credits:bob").available_microcredits == MICROCREDITS_MAX
    driver.check()


def test_a_pipeline_is_what_its_cid_says(driver: MarketDriver) -> None:
    assert driver.publish(make_pipeline("digits", units=7)) == []
    assert driver.market.pipeline("digits").work_units_base == 100
    driver.publish(make_pipeline("other"))
    assert driver.of(Pipeline, "other").id == "other"


def test_work_units_follow_from_the_input(driver: MarketDriver) -> None:
    pipeline = Pipeline(
        id="sized",
        name="sized",
        publisher="p",
        providers=("cpu",),
        memory_bytes=1,
        artifact_bytes=1,
        wall_s=1.0,
        work_units_base=10,
        work_units_per_mebibyte=3,
        kernel_stages=(),
    )
    driver.publish(pipeline)
    assert driver.job(driver.submit(pipeline="sized")).units == 13


@pytest.mark.parametrize(
    ("request_of", "code"),
    [
        ({"pipeline": "unknown"}, "unknown-pipeline"),
        ({"account": "bob"}, "insufficient-funds"),
        ({"max_price_microcredits": 250_001}, "insufficient-funds"),
        ({"max_price_microcredits": 0}, "invalid-request"),
    ],
)
def test_a_submission_that_cannot_be_is_refused(
    driver: MarketDriver, request_of: dict[str, object], code: str
) -> None:
    before = dict(driver.records)
    assert driver.submit(**request_of) == ""
    assert [type(told) for told in driver.answers[-1]] == [ReplyRefused]
    assert driver.refusal().code == code
    assert driver.records == before
    driver.check()


def test_insufficient_funds_says_how_much(driver: MarketDriver) -> None:
    driver.submit(max_price_microcredits=300_000)
    problem = driver.refusal()
    assert problem.detail == "0.3 credits needed, 0.25 available"
    assert problem.facts == {"needed_microcredits": 300_000, "available_microcredits": 250_000}


def test_a_repeated_key_gives_the_earlier_job(driver: MarketDriver) -> None:
    job = driver.submit(key="k")
    assert driver.submit(key="k") == job
    assert driver.told() == [ReplySubmitted(job)]
    assert len(driver.all_of(Job)) == 1
    assert driver.market.account("credits:alice").reserved_microcredits == 100_000
    driver.submit(key="k", request_hash="another")
    problem = driver.refusal()
    assert (problem.code, problem.facts) == ("idempotency-conflict", {"job": job})


def test_keys_are_per_account(driver: MarketDriver) -> None:
    driver.fund("bob")
    assert driver.submit(key="k") != driver.submit("bob", key="k")


def test_a_key_outlives_its_job_for_the_documented_time(driver: MarketDriver) -> None:
    driver.add_worker("w0")
    job = driver.submit(key="k")
    driver.deliver(f"{job}.1")
    driver.tick(100.0)
    assert driver.market.job(job) is None, "the job has left memory"
    assert driver.submit(key="k") == job
    driver.at += 899.0
    assert driver.submit(key="k") == job
    driver.at += 1.0
    later = driver.submit(key="k")  # no tick has swept the old key, which must not matter
    assert later not in ("", job)
    driver.tick(0.0)
    assert driver.submit(key="k") == later
    driver.check()


def test_a_job_stays_in_memory_while_its_payment_is_held(driver: MarketDriver) -> None:
    driver.add_worker("w0")
    job = driver.submit()
    driver.deliver(f"{job}.1")
    driver.tick(99.0)
    assert driver.market.job(job) is not None
    driver.tick(1.0)
    assert driver.market.job(job) is None
    assert driver.market.lease(f"{job}.1") is None
    assert driver.market.leases_of(job) == []


def test_cancelling_recalls_and_refunds_what_was_not_begun(driver: MarketDriver) -> None:
    for worker in ("w0", "w1", "w2"):
        driver.add_worker(worker)
    job = driver.submit(confidence=0.95)
    open_leases = [lease.id for lease in driver.open_leases(job)]
    assert len(open_leases) == 3
    driver.deliver(open_leases[0])
    driver.cancel(job)
    delivered = driver.market.lease(open_leases[0])
    assert delivered is not None
    reason = "the submitter cancelled the job; what was begun is paid"
    stopped = driver.market.leases_of(job)[1:]
    assert driver.told() == [
        *(SendRecall(lease.id, lease.worker) for lease in stopped),
        SendSettled(delivered.id, delivered.worker, "inconclusive", delivered.price_microcredits, reason),
        *(
            SendSettled(lease.id, lease.worker, "recalled", lease.price_microcredits // 10, reason)
            for lease in stopped
        ),
        NotifyFinished(job),
    ]
    ended = driver.job(job)
    assert ended.status is JobStatus.CANCELLED
    assert ended.problem is not None
    assert ended.problem.code == "job-cancelled"
    assert driver.market.account("credits:alice") == Account(
        id="credits:alice", available_microcredits=250_000 - ended.paid_microcredits
    )
    kinds = [transfer.kind for transfer in driver.all_of(Transfer)]
    assert (kinds.count("pay"), kinds.count("pay_begun")) == (0, 3)
    driver.check()


def test_cancelling_twice_changes_nothing_and_late_results_are_told(driver: MarketDriver) -> None:
    driver.add_worker("w0")
    job = driver.submit()
    driver.cancel(job)
    assert driver.cancel(job) == []
    driver.deliver(f"{job}.1")
    [late] = driver.told()
    assert isinstance(late, SendAcknowledged)
    assert late.problem is not None
    assert late.problem.code == "lease-gone"
    assert driver.market.lease(f"{job}.1").state is LeaseState.RECALLED


@pytest.mark.parametrize(("job", "account"), [("unknown", "alice"), ("job000001", "bob")])
def test_only_its_submitter_cancels_a_job(driver: MarketDriver, job: str, account: str) -> None:
    driver.submit()
    driver.cancel(job, account)
    assert driver.refusal().code == "unknown-job"
    assert driver.job("job000001").status is JobStatus.QUEUED


def test_a_job_that_has_ended_cannot_be_cancelled(driver: MarketDriver) -> None:
    driver.add_worker("w0")
    job = driver.submit()
    driver.deliver(f"{job}.1")
    assert driver.cancel(job) == []
    driver.at += 50.0
    driver.cancel(job)
    assert driver.refusal().code == "unknown-job"
    assert driver.job(job).status is JobStatus.ACCEPTED


def test_unknown_workers_are_refused(driver: MarketDriver) -> None:
    driver.connect("stranger")
    assert driver.refusal().code == "unauthorized"
    driver.update_offer("stranger", make_offer())
    assert driver.refusal().code == "unauthorized"
    driver.join("w0")
    driver.update_offer("w0", make_offer())
    assert driver.refusal().code == "protocol-error"


def test_a_worker_joins_once_with_one_stake(driver: MarketDriver) -> None:
    driver.join("w0", owner="ann", stake_microcredits=500)
    assert driver.join("w0", owner="ann", stake_microcredits=500) == []
    driver.join("w0", owner="ben", stake_microcredits=500)
    assert driver.refusal().code == "invalid-join-token"
    driver.join("w1", stake_microcredits=10**19)
    assert driver.refusal().code == "treasury-exhausted"
    assert driver.market.account("stake:w0").available_microcredits == 500
    assert driver.market.worker("w1") is None
    driver.check()
