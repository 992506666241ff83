"""The operator's revocation list in the market: nothing revoked is leased, and no engine below the floors."""

from __future__ import annotations

from typing import Any

import pytest

from tradepost.content import add_bytes
from tradepost.identity import Identity
from tradepost.protocol import JobStatus
from tradepost_broker.market.model.entities import Lease, LeaseState, Match, Pipeline
from tradepost_broker.market.model.events import NotifyFinished, SendRecall, SendRevocations
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline
from tradepost_signing.policy.revocation import RevocationDocument

KERNEL = add_bytes(b"kernel", put=None)
PIPELINE = add_bytes(b"pipeline", put=None)
ALICE, BOB = Identity.generate().id, Identity.generate().id


def revoked(version: int = 1, **entries: Any) -> RevocationDocument:
    return RevocationDocument(version=version, issued_at=0, **entries)


@pytest.fixture
def driver() -> MarketDriver:
    """Funded, `PIPELINE` with `KERNEL` by Alice, `digits` by another, one worker."""
    driver = MarketDriver(policy=MarketPolicy(audit_rate=0.0))
    driver.fund()
    driver.publish()
    driver.publish(make_pipeline(PIPELINE, publishers=(ALICE,), artifacts=(KERNEL,)))
    driver.join("w0")
    driver.connect("w0", make_offer(engines={"wasmtime": "50.0.0"}))
    return driver


@pytest.mark.parametrize(
    "entries",
    [{"cids": {PIPELINE: "bad"}}, {"cids": {KERNEL: "bad"}}, {"publishers": {ALICE: "bad"}}],
)
def test_what_is_revoked_is_neither_published_nor_submitted(
    driver: MarketDriver, entries: dict[str, Any]
) -> None:
    driver.revoke(revoked(**entries))
    assert driver.told() == [SendRevocations(1)]
    assert driver.submit(pipeline=PIPELINE) == ""
    assert driver.refusal().code == "revoked"
    assert "bad" in driver.refusal().detail
    driver.publish(make_pipeline(PIPELINE, publishers=(ALICE,), artifacts=(KERNEL,)))
    assert driver.refusal().code == "revoked"
    assert driver.job(driver.submit()).status is JobStatus.RUNNING, "another pipeline goes on"
    driver.check()


def test_open_jobs_of_what_is_revoked_end_with_the_reason(driver: MarketDriver) -> None:
    running = driver.submit(pipeline=PIPELINE)
    other = driver.submit()
    queued = driver.submit(pipeline=PIPELINE)
    [lease] = driver.open_leases(running)
    assert driver.job(queued).status is JobStatus.QUEUED
    driver.revoke(revoked(cids={KERNEL: "it crashes devices"}))
    told = driver.told()
    # The list first: a worker then says itself why it stops.
    assert told[0] == SendRevocations(1)
    assert SendRecall(lease.id, "w0") in told
    assert {one.job for one in told if isinstance(one, NotifyFinished)} == {running, queued}
    for job in (running, queued):
        assert driver.job(job).status is JobStatus.FAILED
        problem = driver.job(job).problem
        assert problem is not None
        assert (problem.code, "it crashes devices" in problem.detail) == ("revoked", True)
    assert driver.of(Lease, lease.id).state is LeaseState.RECALLED
    assert driver.job(other).status is JobStatus.RUNNING
    driver.check()


def test_one_signature_that_still_counts_is_enough(driver: MarketDriver) -> None:
    driver.revoke(revoked(publishers={ALICE: "the key was stolen"}))
    assert driver.submit(pipeline=PIPELINE) == ""
    driver.publish(make_pipeline(PIPELINE, publishers=(ALICE, BOB), artifacts=(KERNEL,)))
    assert driver.of(Pipeline, PIPELINE).publishers == (ALICE, BOB)
    assert driver.submit(pipeline=PIPELINE)
    driver.check()


def test_an_engine_below_the_floor_gets_no_leases(driver: MarketDriver) -> None:
    kept = driver.submit()
    driver.revoke(revoked(engines={"wasmtime": "50.0.1"}))
    assert len(driver.open_leases(kept)) == 1, "it may finish what it has"
    waiting = driver.submit(patience_s=0.0)
    problem = driver.job(waiting).problem
    assert problem is not None
    assert problem.code == "no-eligible-worker"
    assert problem.facts["engine_too_old"] == 1
    assert "1 with engines older than the operator allows" in problem.detail

    driver.join("w1")
    driver.connect("w1", make_offer(engines={"wasmtime": "50.0.1"}))
    [lease] = driver.open_leases(driver.submit())
    assert lease.worker == "w1"
    assert driver.of(Match, lease.id).left_out["engine too old"] == 1
    driver.check()


@pytest.mark.parametrize("engines", [{}, {"wasmtime": "what"}])
def test_an_engine_that_is_not_known_is_too_old(driver: MarketDriver, engines: dict[str, str]) -> None:
    driver.revoke(revoked(engines={"wasmtime": "49"}))
    assert len(driver.open_leases(driver.submit())) == 1
    driver.update_offer("w0", make_offer(engines=engines))
    assert driver.open_leases(driver.submit()) == []


def test_a_newer_engine_or_a_newer_list_lets_a_worker_in_again(driver: MarketDriver) -> None:
    driver.revoke(revoked(engines={"wasmtime": "50.0.1"}))
    job = driver.submit()
    assert driver.open_leases(job) == []
    driver.revoke(revoked(2, engines={"wasmtime": "50"}))
    assert len(driver.open_leases(job)) == 1
    driver.revoke(revoked(3, engines={"wasmtime": "51"}))
    job = driver.submit()
    driver.connect("w0", make_offer(engines={"wasmtime": "51.2"}))
    assert len(driver.open_leases(job)) == 1
    driver.check()


def test_a_worker_that_left_is_not_counted_as_too_old(driver: MarketDriver) -> None:
    driver.revoke(revoked(engines={"wasmtime": "51"}))
    driver.disconnect("w0")
    problem = driver.job(driver.submit(patience_s=0.0)).problem
    assert problem is not None
    assert problem.facts["engine_too_old"] == 0
    driver.check()


def test_a_list_that_is_brought_again_after_a_restart_holds(driver: MarketDriver) -> None:
    document = revoked(cids={PIPELINE: ""}, engines={"wasmtime": "51"})
    driver.revoke(document)
    driver.restart()
    driver.revoke(document)
    driver.connect("w0", make_offer(engines={"wasmtime": "50"}))
    assert driver.submit(pipeline=PIPELINE) == ""
    assert driver.open_leases(driver.submit()) == []
    driver.check()
