"""What a job requires of workers beyond its pipeline: each requirement, its reason, and what it costs."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from past_checks import add_past_checks
from tradepost.errors import InvalidRequest, Problem
from tradepost.protocol import EngineFloor, JobRequest, Offer, Requirements
from tradepost_broker.jobs.submission import request_hash
from tradepost_broker.market.matching.worker_filter import is_at_least
from tradepost_broker.market.model.entities import Job, LeasePurpose, Match
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline

POLICY = MarketPolicy(audit_rate=0.0)


def market_with(
    offers: dict[str, Offer], *, policy: MarketPolicy = POLICY, providers: tuple[str, ...] = ("cpu", "cuda")
) -> MarketDriver:
    """A market with these offers, by worker; a worker's owner is what stands before its hyphen."""
    driver = MarketDriver(policy=policy)
    driver.fund()
    driver.publish(make_pipeline(providers=providers))
    for worker, offer in offers.items():
        driver.join(worker, owner=worker.split("-")[0])
        driver.connect(worker, offer)
    return driver


def winner(driver: MarketDriver, requirements: Requirements) -> str:
    """The worker that gets a job with these requirements; "" if none does."""
    job = driver.submit(requirements=requirements)
    leases = driver.open_leases(job)
    return leases[0].worker if leases else ""


def failure(driver: MarketDriver, requirements: Requirements) -> Problem:
    """How a job with these requirements fails, which is what its estimate says."""
    expected = driver.estimate(requirements=requirements).problem
    ended = driver.job(driver.submit(requirements=requirements, patience_s=0.0))
    assert ended.problem is not None
    assert ended.problem == expected
    return ended.problem


def match_of(driver: MarketDriver, job: Job) -> Match:
    return driver.of(Match, f"{job.id}.1")


# Providers


def test_a_worker_must_offer_a_required_provider() -> None:
    driver = market_with({"a": make_offer(10), "b": make_offer(20, providers=("cpu", "cuda"))})
    assert winner(driver, Requirements(providers=("cuda",))) == "b"
    assert winner(driver, Requirements()) == "a"
    driver.disconnect("b")
    problem = failure(driver, Requirements(providers=("cuda",)))
    assert problem.code == "no-eligible-worker"
    assert problem.detail == "1 standing offer: 1 without cuda"
    assert problem.hint == "Without the requirement on providers, 1 offer would match."


def test_a_provider_that_the_pipeline_does_not_run_on_is_refused() -> None:
    driver = market_with({"a": make_offer(10)})
    wrong = Requirements(providers=("webgpu",))
    assert driver.submit(requirements=wrong) == ""
    assert driver.refusal().code == "invalid-request"
    with pytest.raises(InvalidRequest, match="requires webgpu"):
        driver.estimate(requirements=wrong)


def test_a_pipeline_for_any_provider_takes_the_required_one() -> None:
    driver = market_with({"a": make_offer(10), "b": make_offer(20, providers=("cuda",))}, providers=())
    assert winner(driver, Requirements(providers=("cuda",))) == "b"


def test_a_required_provider_keeps_no_auditor_away() -> None:
    driver = market_with(
        {"a": make_offer(10, providers=("cuda",))}, policy=MarketPolicy(audit_rate=1.0, hold_s=600.0)
    )
    driver.join("auditor", auditor=True)
    driver.connect("auditor", make_offer(1, providers=("cpu",)))
    job = driver.submit(requirements=Requirements(providers=("cuda",)))
    driver.deliver(f"{job}.1")
    purposes = {lease.worker: lease.purpose for lease in driver.market.leases_of(job)}
    assert purposes == {"a": LeasePurpose.AUCTION, "auditor": LeasePurpose.AUDIT}


# Engines


def test_engines_must_be_new_enough() -> None:
    driver = market_with(
        {
            "old": make_offer(10, engines={"onnxruntime": "1.24.4", "wasmtime": "50.0.0"}),
            "silent": make_offer(11),
            "odd": make_offer(12, engines={"onnxruntime": "newest"}),
            "new": make_offer(20, engines={"onnxruntime": "1.25.0", "wasmtime": "50.0.0"}),
        }
    )
    floors = (EngineFloor(engine="onnxruntime", version="1.25"),)
    job = driver.job(driver.submit(requirements=Requirements(engines=floors)))
    assert [lease.worker for lease in driver.open_leases(job.id)] == ["new"]
    assert match_of(driver, job).left_out == {"engine below the requirement": 3}
    driver.disconnect("new")
    problem = failure(driver, Requirements(engines=floors))
    assert problem.detail == "3 standing offers: 3 with engines older than the job requires"
    assert problem.hint == "Without the requirement on engines, 3 offers could match."
    assert problem.facts["lack_engine"] == 3


@pytest.mark.parametrize(
    ("version", "floor", "enough"),
    [
        ("1.10", "1.9", True),
        ("1.9", "1.10", False),
        ("1.9.0", "1.9", True),
        ("1.9rc1", "1.9", False),
        ("1.9+cu12", "1.9", True),
        ("", "0", False),
        ("x" * 256, "0", False),
    ],
)
def test_versions_are_compared_as_numbers(version: str, floor: str, enough: bool) -> None:
    assert is_at_least(version, floor) is enough


# The score


def test_a_score_below_the_minimum_is_left_out() -> None:
    driver = market_with({"new": make_offer(10), "good": make_offer(20)})
    add_past_checks(driver, "good", 60, capability="cpu+cuda")
    driver.restart()
    for worker, price in (("new", 10), ("good", 20)):
        driver.connect(worker, make_offer(price))
    driver.tick(60.0)
    job = driver.job(driver.submit(requirements=Requirements(score_min=0.9)))
    assert [lease.worker for lease in driver.open_leases(job.id)] == ["good"]
    assert match_of(driver, job).left_out == {"score below the requirement": 1}
    problem = failure(driver, Requirements(score_min=1.0))
    assert problem.detail == "2 standing offers: 2 with scores below what the job requires"
    assert problem.facts["lack_score"] == 2


# Owners


def test_owners_can_be_excluded() -> None:
    driver = market_with({"a-1": make_offer(10), "a-2": make_offer(11), "b-1": make_offer(20)})
    job = driver.job(driver.submit(requirements=Requirements(owners_excluded=("a", "nobody"))))
    assert [lease.worker for lease in driver.open_leases(job.id)] == ["b-1"]
    assert match_of(driver, job).left_out == {"owner not allowed": 2}
    problem = failure(driver, Requirements(owners_excluded=("a", "b")))
    assert problem.hint == "Without the requirement on owners, 3 offers could match."
    assert problem.facts["owner_not_allowed"] == 3


def test_only_some_owners_can_be_allowed_however_many_others_are_cheaper() -> None:
    crowd = {f"crowd{number}-1": make_offer(1 + number % 7) for number in range(40)}
    policy = MarketPolicy(audit_rate=0.0, scan_max=8, hidden_draws_max=0)
    driver = market_with(crowd | {"mine-1": make_offer(90), "mine-2": make_offer(80)}, policy=policy)
    only = Requirements(owners_only=("mine",))
    job = driver.job(driver.submit(requirements=only))
    assert [lease.worker for lease in driver.open_leases(job.id)] == ["mine-2"]
    assert match_of(driver, job).left_out == {"owner not allowed": 40}
    problem = failure(driver, Requirements(owners_only=("nobody",)))
    assert problem.code == "no-eligible-worker"
    assert (
        problem.hint
        == "None of the owners that the job allows has an offer that fits; allow others, or wait for one."
    )


def test_replicas_come_from_allowed_owners_only() -> None:
    offers = {f"{owner}-1": make_offer(10) for owner in "abcdef"}
    driver = market_with(offers)
    allowed = ("a", "b", "c")
    job = driver.submit(confidence=0.95, requirements=Requirements(owners_only=allowed))
    assert {lease.worker for lease in driver.open_leases(job)} == {"a-1", "b-1", "c-1"}
    assert {lease.drawn_from for lease in driver.open_leases(job)} == {0, 2, 1}, "they prove little"
    problem = failure(driver, Requirements(owners_only=("d",), owners_excluded=("d",)))
    assert problem.facts["owner_not_allowed"] == 1


# All of them at once


owner_names = st.sampled_from(["a", "b", "c", "d"])
requirements = st.builds(
    Requirements,
    providers=st.sampled_from([msgspec.UNSET, (), ("cpu",), ("cuda",)]),
    engines=st.sampled_from([msgspec.UNSET, (), (EngineFloor(engine="e", version="2"),)]),
    score_min=st.sampled_from([msgspec.UNSET, 0.0, 0.05, 0.2, 0.9]),
    owners_only=st.just(msgspec.UNSET) | st.lists(owner_names, max_size=3).map(tuple),
    owners_excluded=st.just(msgspec.UNSET) | st.lists(owner_names, max_size=3).map(tuple),
)
offers = st.builds(
    make_offer,
    st.integers(1, 60),
    capacity=st.sampled_from([1, 2]),
    providers=st.sampled_from([("cpu",), ("cuda",)]),
    engines=st.sampled_from([{}, {"e": "1.9"}, {"e": "2.0"}]),
)


@given(
    known=st.lists(st.tuples(owner_names, offers), max_size=8),
    required=requirements,
    confidence=st.sampled_from([0.5, 0.75, 0.9]),
)
@settings(max_examples=150, deadline=None)
def test_only_workers_that_meet_all_requirements_get_leases(
    known: list[tuple[str, Offer]], required: Requirements, confidence: float
) -> None:
    driver = market_with({f"{owner}-{number}": offer for number, (owner, offer) in enumerate(known)})
    view = driver.estimate(requirements=required, confidence=confidence, max_price_microcredits=50_000)
    job = driver.submit(
        requirements=required, confidence=confidence, max_price_microcredits=50_000, patience_s=0.0
    )
    assert driver.job(job).problem == view.problem
    leases = driver.open_leases(job)
    assert bool(leases) == (view.problem is None), "all are idle"
    for lease in leases:
        owner, number = lease.worker.split("-")
        capabilities = known[int(number)][1].capabilities
        assert not required.owners_only or owner in required.owners_only
        assert owner not in (required.owners_excluded or ())
        assert not required.providers or set(required.providers) & set(capabilities.providers)
        assert not required.engines or capabilities.engines.get("e") == "2.0"
    driver.check()


# Records from before


def test_requirements_without_filters_are_stored_and_hashed_as_before() -> None:
    plain = Requirements(memory_bytes=5)
    encoded = msgspec.msgpack.encode(plain)
    assert msgspec.msgpack.decode(encoded) == {"memory_bytes": 5, "isolation": []}
    assert msgspec.msgpack.decode(encoded, type=Requirements) == plain
    request = JobRequest(
        pipeline="p", input=b"x", max_price_microcredits=7, requirements=plain, idempotency_key="k"
    )
    before = {
        "pipeline": "p",
        "input": None,
        "input_cid": "cid",
        "max_price_microcredits": 7,
        "confidence": 0.95,
        "deadline_s": 300.0,
        "patience_s": 5.0,
        "requirements": {"memory_bytes": 5, "isolation": []},
        "idempotency_key": "-",
    }
    assert request_hash(request, "cid") == hashlib.sha256(msgspec.msgpack.encode(before)).hexdigest()
