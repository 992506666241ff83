"""No number that strangers choose makes the market fail, or is too large for the database or a message."""

from __future__ import annotations

import sqlite3

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies.field_edges import at_edges

from tradepost.errors import Problem
from tradepost.pipeline.manifest import (
    UNITS_MAX,
    KernelStage,
    Manifest,
    PipelineLimits,
    TensorSpec,
    WorkUnits,
    manifest_cid,
)
from tradepost.protocol import GiveBack, Heartbeat, Hello, JobRequest, JobStatus, Offer
from tradepost.receipts import Receipt
from tradepost_broker.content.catalog import facts_for_market
from tradepost_broker.market.ledger import SUPPLY_MICROCREDITS
from tradepost_broker.market.model.amounts import AMOUNT_MAX_MICROCREDITS, bid_for, saturated
from tradepost_broker.market.model.entities import Job
from tradepost_broker.market.model.events import (
    Event,
    Instruction,
    JobSubmitted,
    MatchingEvent,
    ReplyRefused,
    Save,
    SendAcknowledged,
)
from tradepost_broker.market.testing import MarketDriver, make_offer, make_pipeline
from tradepost_broker.storage.rows import CODECS

DIGEST_CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


def manifest_of(units: WorkUnits, limits: PipelineLimits, memory_bytes: int, fuel: int) -> Manifest:
    """A manifest of one kernel, with these numbers."""
    kernel = KernelStage(
        name="k",
        artifact=DIGEST_CID,
        inputs={"x": "input.x"},
        outputs=("y",),
        fuel=fuel,
        memory_bytes=memory_bytes,
    )
    return Manifest(
        name="edges",
        version="1",
        inputs={"x": TensorSpec(dtype="U8", shape=(None,))},
        stages=(kernel,),
        outputs={"y": "k.y"},
        work_units=units,
        limits=limits,
    )


manifests = st.builds(
    manifest_of,
    at_edges(WorkUnits),
    at_edges(PipelineLimits),
    st.sampled_from([1 << 16, 1 << 32]),
    st.sampled_from([1, 1 << 53]),
)
requests = at_edges(
    JobRequest, pipeline=st.just(DIGEST_CID), input=st.just(b""), input_cid=st.just(DIGEST_CID)
)
#: What is kept of a worker's own words: no facts.
problems = at_edges(Problem, facts=st.just({}))
times = st.sampled_from([0.0, 1_000_000.0, 2.0**33])


class StrictDriver(MarketDriver):
    """A market whose every event, record and instruction is written as the broker would write it."""

    def __init__(self, at: float) -> None:
        super().__init__(at=at)
        self._database = sqlite3.connect(":memory:")

    def handle(self, event: Event) -> list[Instruction]:
        written = msgspec.structs.replace(event, seed=0) if isinstance(event, MatchingEvent) else event
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(written), type=Event) == written
        answer = super().handle(event)
        for instruction in answer:
            match instruction:
                case Save(record):
                    row = CODECS[type(record)].to_row(record)
                    placeholders = ", ".join("?" * len(row))
                    self._database.execute(f"SELECT {placeholders}", row)
                    assert CODECS[type(record)].from_row(row) == record
                case ReplyRefused(problem) | SendAcknowledged(problem=problem):
                    msgspec.json.decode(msgspec.json.encode(problem))
                    msgspec.msgpack.encode(problem)
        self.check()
        return answer


@given(st.integers() | st.floats())
def test_an_amount_saturates_at_all_the_credits_that_there_are(amount: float) -> None:
    assert AMOUNT_MAX_MICROCREDITS == SUPPLY_MICROCREDITS
    assert -SUPPLY_MICROCREDITS <= saturated(amount) <= SUPPLY_MICROCREDITS
    if isinstance(amount, int) and abs(amount) <= SUPPLY_MICROCREDITS:
        assert saturated(amount) == amount


@given(at_edges(WorkUnits), st.sampled_from([0, 1, 1 << 20, 1 << 28, 1 << 53]))
def test_work_units_saturate(units: WorkUnits, input_bytes: int) -> None:
    counted = units.count(input_bytes)
    assert 1 <= counted <= UNITS_MAX
    assert bid_for(1 << 53, counted) <= SUPPLY_MICROCREDITS


@given(
    manifest=manifests,
    artifact_bytes=st.sampled_from([0, 1, 1 << 53]),
    offers=st.lists(at_edges(Offer), min_size=1, max_size=4),
    asked=st.lists(requests, min_size=1, max_size=3),
    input_bytes=st.sampled_from([0, 1, 1 << 28]),
    funds=st.sampled_from([1, 1 << 53]),
    at=times,
    outcomes=st.lists(problems | st.sampled_from(["right", "wrong", "failed:k:kernel-trap"]), max_size=4),
)
def test_no_number_at_the_edge_of_its_field_makes_the_market_fail(
    manifest: Manifest,
    artifact_bytes: int,
    offers: list[Offer],
    asked: list[JobRequest],
    input_bytes: int,
    funds: int,
    at: float,
    outcomes: list[Problem | str],
) -> None:
    driver = StrictDriver(at)
    pipeline = manifest_cid(manifest)
    driver.publish(facts_for_market(pipeline, manifest, ("publisher",), artifact_bytes))
    driver.fund("alice", funds)
    for number, offer in enumerate(offers):
        driver.join(f"w{number}", stake_microcredits=funds)
        driver.connect(f"w{number}", offer)
    for number, request in enumerate(asked):
        driver.handle(submitted(driver, request, f"job{number}", pipeline, input_bytes))
    for outcome in outcomes:
        for lease in [lease for held in driver.in_hand.values() for lease in held]:
            if isinstance(outcome, Problem):
                driver.give_back(lease, problem=outcome)
            else:
                driver.deliver(lease, outcome, stages=(("k", "h"),), wall_us=((1 << 63) - 1,) * 2)
    for number, offer in enumerate(offers):
        driver.update_offer(f"w{number}", offer)
    for after_s in (0.0, 1.0, 700.0, 8 * 24 * 3600.0, 1e9):
        driver.tick(after_s)
    driver.restart()


def submitted(
    driver: MarketDriver, request: JobRequest, job: str, pipeline: str, input_bytes: int
) -> JobSubmitted:
    """The event that the broker makes of a request."""
    return JobSubmitted(
        at=driver.at,
        job=job,
        account="alice",
        idempotency_key=request.idempotency_key,
        request_hash=job,
        pipeline=pipeline,
        input="input",
        input_bytes=input_bytes,
        max_price_microcredits=request.max_price_microcredits,
        confidence=request.confidence,
        deadline_s=request.deadline_s,
        patience_s=request.patience_s,
        requirements=request.requirements,
        seed=driver.next_seed(),
    )


def test_a_price_that_no_cap_reaches_fails_the_job_and_not_the_market() -> None:
    driver = StrictDriver(1_000_000.0)
    driver.fund()
    driver.publish(make_pipeline(units=1 << 53))
    driver.join("w0")
    driver.connect("w0", make_offer(1 << 53))
    job = driver.submit(max_price_microcredits=1, patience_s=0.0)
    failed = driver.of(Job, job)
    assert failed.status is JobStatus.FAILED
    assert failed.problem is not None
    assert failed.problem.code == "price-cap-too-low"
    assert failed.problem.facts["lowest_total_microcredits"] == SUPPLY_MICROCREDITS
    assert "max_price" not in failed.problem.hint
    driver.check()


@given(
    st.one_of(
        at_edges(Hello),
        at_edges(Offer),
        at_edges(Heartbeat),
        at_edges(GiveBack, problem=problems),
        at_edges(Receipt),
        at_edges(JobRequest),
    )
)
def test_every_number_of_a_stranger_has_bounds_and_can_be_written(message: msgspec.Struct) -> None:
    # `at_edges` fails on a number without bounds.
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message))
