"""A delivery's turn reads no document: earlier results are compared before it, each once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from tradepost.errors import UnknownCid
from tradepost.pipeline.agreement import Agreement
from tradepost.pipeline.manifest import Manifest, ModelStage, Tolerance
from tradepost.protocol import Deliver
from tradepost.receipts import Failed, JobOutcome, Receipt, Returned, SignedReceipt, StageReport
from tradepost_broker.engine.engine import Decision, Moment, Postponed
from tradepost_broker.jobs.output_checks import CheckedResult
from tradepost_broker.jobs.receipt_delivery import ReceiptDelivery
from tradepost_broker.market.model.entities import Lease, LeasePurpose, LeaseState
from tradepost_broker.market.model.events import ReceiptDelivered
from tradepost_broker.storage.shell_records import Delivery
from tradepost_broker.testing import SamplePipeline


class Unreadable:
    """Records that no turn of a delivery may read."""

    def get(self, kind: type[object], id_: str) -> None:
        raise AssertionError(f"{kind.__name__} {id_} was read in the turn")


MOMENT = Moment(at=5.0, seed=7, records=Unreadable())


#: A kernel `scale`, then a model `double`, whose output is the pipeline's `y`.
MANIFEST = SamplePipeline().manifest
STAGES = (("scale", "1" * 64), ("double", "2" * 64))
OTHER_MODEL = (STAGES[0], ("double", "3" * 64))
OTHER_KERNEL = (("scale", "4" * 64), ("double", "5" * 64))


@dataclass
class Job:
    """The results of one job, and which of them the comparison of outputs finds to agree."""

    results: list[Lease] = field(default_factory=list)
    agreeing: frozenset[str] = frozenset()
    compared: list[str] = field(default_factory=list)
    tolerances: dict[str, Mapping[str, Tolerance | None]] = field(default_factory=dict)
    manifest: Manifest = MANIFEST

    def results_of(self, job: str) -> list[Lease]:
        return self.results

    async def compare(
        self, delivery: Delivery, lease: str, tolerances: Mapping[str, Tolerance | None]
    ) -> Agreement:
        self.compared.append(lease)
        self.tolerances[lease] = tolerances
        return Agreement(lease in self.agreeing, share=0.5, tensor="" if lease in self.agreeing else "y")

    def delivery(
        self,
        lease: Lease,
        result: JobOutcome | None = None,
        *,
        stages: tuple[tuple[str, str], ...] = STAGES,
    ) -> ReceiptDelivery:
        outcome = result or Returned(output="ours", output_bytes=1)
        receipt = Receipt(
            broker="b",
            job="j",
            lease=lease.id,
            attempt=1,
            worker="w",
            pipeline="p",
            input="i",
            outcome=outcome,
            stages=tuple(StageReport(stage=stage, output=output) for stage, output in stages),
            engines={},
            nonce=b"",
            expires_at=9,
        )
        signed = SignedReceipt(payload=b"", public_key=b"", signature=b"")
        return ReceiptDelivery(
            results=self,
            manifest=self.manifest,
            compare_outputs=self.compare,
            lease=lease,
            receipt=receipt,
            result=CheckedResult(outcome, must_be_confirmed=isinstance(outcome, Failed)),
            frame=Deliver(lease=lease.id, receipt=signed, output=None),
        )


def lease(
    id_: str,
    outcome: str = "",
    state: LeaseState = LeaseState.DELIVERED,
    stages: tuple[tuple[str, str], ...] = OTHER_MODEL,
) -> Lease:
    return Lease(
        id=id_,
        job="j",
        worker="w",
        attempt=1,
        purpose=LeasePurpose.AUCTION,
        price_microcredits=1,
        nonce=b"",
        granted_at=0.0,
        expires_at=9.0,
        state=state,
        outcome=outcome,
        stage_hashes=stages,
    )


def ours(state: LeaseState = LeaseState.OPEN) -> Lease:
    return lease("ours", state=state)


def event_of(decision: Decision | Postponed) -> ReceiptDelivered:
    assert isinstance(decision, Decision)
    assert isinstance(decision.event, ReceiptDelivered)
    return decision.event


def agrees_with(decision: Decision | Postponed) -> tuple[str, ...]:
    return event_of(decision).agrees_with


async def prepare(decision: Decision | Postponed) -> None:
    assert isinstance(decision, Postponed)
    await decision.prepare()


async def test_other_outputs_are_compared_outside_the_turn() -> None:
    job = Job([lease("a", "other"), lease("b", "another")], agreeing=frozenset({"b"}))
    work = job.delivery(ours())
    await prepare(work.decide(MOMENT))
    assert job.compared == ["a", "b"]
    assert agrees_with(work.decide(MOMENT)) == ("b",)


async def test_a_result_that_came_meanwhile_is_compared_in_another_preparation() -> None:
    job = Job([lease("a", "other")], agreeing=frozenset({"a", "b"}))
    work = job.delivery(ours())
    await prepare(work.decide(MOMENT))
    job.results.append(lease("b", "another"))
    await prepare(work.decide(MOMENT))
    assert job.compared == ["a", "b"]
    assert agrees_with(work.decide(MOMENT)) == ("a", "b")


async def test_a_result_that_is_void_meanwhile_is_not_named() -> None:
    job = Job([lease("a", "other"), lease("b", "another")], agreeing=frozenset({"a", "b"}))
    work = job.delivery(ours())
    await prepare(work.decide(MOMENT))
    del job.results[0]
    assert agrees_with(work.decide(MOMENT)) == ("b",)


async def test_a_comparison_that_failed_is_made_again() -> None:
    job = Job([lease("a", "other")])

    async def fail(*_: object) -> Agreement:
        raise UnknownCid("a block is lost")

    job.compare = fail  # type: ignore[method-assign]
    work = job.delivery(ours())
    with pytest.raises(UnknownCid):
        await prepare(work.decide(MOMENT))
    assert isinstance(work.decide(MOMENT), Postponed)


@pytest.mark.parametrize(
    ("result", "earlier", "stages", "agreeing", "proofs"),
    [
        (None, "ours", OTHER_MODEL, ("a",), ()),
        (None, "other", OTHER_KERNEL, (), (("a", "scale"),)),
        (None, "ours", OTHER_KERNEL, (), (("a", "scale"),)),
        (None, "failed:double:model-failure", OTHER_KERNEL[:1], (), (("a", "scale"),)),
        (None, "failed:scale:kernel-trap", (), (), ()),
        (Failed(stage="scale", code="kernel-trap"), "other", OTHER_MODEL, (), ()),
        (Failed(stage="scale", code="kernel-trap"), "failed:scale:kernel-trap", (), ("a",), ()),
    ],
    ids=[
        "same bytes",
        "another kernel",
        "another kernel, same bytes",
        "another kernel, then it failed",
        "it failed",
        "ours failed",
        "both failed",
    ],
)
def test_nothing_is_compared_where_stages_and_outcomes_tell(
    result: JobOutcome | None,
    earlier: str,
    stages: tuple[tuple[str, str], ...],
    agreeing: tuple[str, ...],
    proofs: tuple[tuple[str, str], ...],
) -> None:
    event = event_of(Job([lease("a", earlier, stages=stages)]).delivery(ours(), result).decide(MOMENT))
    assert (event.agrees_with, event.proofs) == (agreeing, proofs)


async def test_an_output_that_is_not_what_its_receipt_commits_to_is_proof() -> None:
    """The attack: the hashes of an honest run, and another output within the tolerance."""
    job = Job([lease("a", "other", stages=STAGES), lease("b", "another")])
    work = job.delivery(ours())
    await prepare(work.decide(MOMENT))
    assert job.tolerances == {"a": {"y": None}, "b": {"y": Tolerance()}}
    assert event_of(work.decide(MOMENT)).proofs == (("a", "double"),), "beyond its tolerance, a model is not"


async def test_only_the_tolerance_of_the_model_that_differs_counts() -> None:
    stages = MANIFEST.stages
    loose = ModelStage(
        name="prepare",
        artifact=stages[1].artifact,
        inputs={"x": "input.x"},
        outputs=("x",),
        tolerance=Tolerance(atol=1e-3, rtol=1e-2),
    )
    manifest = msgspec.structs.replace(MANIFEST, stages=(loose, *stages))
    equal = (("prepare", "0" * 64),)
    job = Job([lease("a", "other", stages=equal + OTHER_MODEL)], manifest=manifest)
    work = job.delivery(ours(), stages=equal + STAGES)
    await prepare(work.decide(MOMENT))
    assert job.tolerances == {"a": {"y": Tolerance()}}


async def test_it_says_how_much_of_the_tolerance_each_difference_takes_and_if_a_failure_needs_another() -> (
    None
):
    job = Job([lease("a", "other"), lease("b", "ours")], agreeing=frozenset({"a"}))
    work = job.delivery(ours())
    await prepare(work.decide(MOMENT))
    decision = work.decide(MOMENT)
    assert isinstance(decision, Decision)
    assert isinstance(event := decision.event, ReceiptDelivered)
    assert (event.agrees_with, event.shares, event.must_be_confirmed) == (("a", "b"), (0.5, 0.0), False)
    failed = Job().delivery(ours(), Failed(stage="stage", code="kernel-trap")).decide(MOMENT)
    assert isinstance(failed, Decision)
    assert isinstance(event := failed.event, ReceiptDelivered)
    assert event.must_be_confirmed


def test_a_repeated_delivery_is_compared_with_nothing_and_keeps_nothing() -> None:
    decision = Job([lease("a", "other")]).delivery(ours(LeaseState.ACCEPTED)).decide(MOMENT)
    assert agrees_with(decision) == ()
    assert isinstance(decision, Decision)
    assert not decision.records


def test_a_late_delivery_that_is_awaited_is_compared() -> None:
    late = ours(LeaseState.EXPIRED)
    late.blame_at = 9.0
    assert isinstance(Job([lease("a", "other")]).delivery(late).decide(MOMENT), Postponed)
