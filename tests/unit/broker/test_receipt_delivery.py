"""A delivery's turn reads no document: earlier results are compared before it, each once."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tradepost.errors import UnknownCid
from tradepost.pipeline.agreement import Agreement
from tradepost.protocol import Deliver
from tradepost.receipts import Failed, JobOutcome, Receipt, Returned, SignedReceipt
from tradepost_broker.engine.engine import Decision, Moment, Postponed
from tradepost_broker.jobs.output_checks import CheckedResult
from tradepost_broker.jobs.receipt_delivery import ReceiptDelivery
from tradepost_broker.market.model.entities import Lease, LeasePurpose, LeaseState
from tradepost_broker.market.model.events import ReceiptDelivered
from tradepost_broker.storage.shell_records import Delivery


class Unreadable:
    """Records that no turn of a delivery may read."""

    def get(self, kind: type[object], id_: str) -> None:
        raise AssertionError(f"{kind.__name__} {id_} was read in the turn")


MOMENT = Moment(at=5.0, seed=7, records=Unreadable())


@dataclass
class Job:
    """The results of one job, and which of them the comparison finds to agree."""

    results: list[Lease] = field(default_factory=list)
    agreeing: frozenset[str] = frozenset()
    compared: list[str] = field(default_factory=list)

    def results_of(self, job: str) -> list[Lease]:
        return self.results

    async def compare(self, delivery: Delivery, lease: str) -> Agreement:
        self.compared.append(lease)
        return Agreement(lease in self.agreeing, share=0.5)

    def delivery(
        self, lease: Lease, result: JobOutcome | None = None, *, bit_for_bit: bool = False
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
            stages=(),
            engines={},
            nonce=b"",
            expires_at=9,
        )
        signed = SignedReceipt(payload=b"", public_key=b"", signature=b"")
        return ReceiptDelivery(
            results=self,
            compare=None if bit_for_bit else self.compare,
            lease=lease,
            receipt=receipt,
            result=CheckedResult(outcome, must_be_confirmed=isinstance(outcome, Failed)),
            frame=Deliver(lease=lease.id, receipt=signed, output=None),
        )


def lease(id_: str, outcome: str = "", state: LeaseState = LeaseState.DELIVERED) -> Lease:
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
    )


def ours(state: LeaseState = LeaseState.OPEN) -> Lease:
    return lease("ours", state=state)


def agrees_with(decision: Decision | Postponed) -> tuple[str, ...]:
    assert isinstance(decision, Decision)
    assert isinstance(decision.event, ReceiptDelivered)
    return decision.event.agrees_with


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

    work = job.delivery(ours())
    work._compare_with = fail
    with pytest.raises(UnknownCid):
        await prepare(work.decide(MOMENT))
    assert isinstance(work.decide(MOMENT), Postponed)


@pytest.mark.parametrize(
    ("result", "earlier", "bit_for_bit", "agreeing"),
    [
        (None, "ours", False, ("a",)),
        (None, "other", True, ()),
        (None, "failed:stage:kernel-trap", False, ()),
        (Failed(stage="stage", code="kernel-trap"), "other", False, ()),
        (Failed(stage="stage", code="kernel-trap"), "failed:stage:kernel-trap", False, ("a",)),
    ],
    ids=["same bytes", "no tolerance", "it failed", "ours failed", "both failed"],
)
def test_nothing_is_compared_where_outcomes_tell(
    result: JobOutcome | None, earlier: str, bit_for_bit: bool, agreeing: tuple[str, ...]
) -> None:
    work = Job([lease("a", earlier)]).delivery(ours(), result, bit_for_bit=bit_for_bit)
    assert agrees_with(work.decide(MOMENT)) == agreeing


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
