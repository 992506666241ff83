"""The simulator catches defects of the core: each test plants one, and some seed must break an invariant.

A planted bug changes one function of the core in memory. It is caught when a run raises, be it one of the
simulator's invariants or one of the core's own. At least 19 of 20 must be caught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tradepost.errors import InvariantBroken
from tradepost_broker.market import core, recovery
from tradepost_broker.market.handlers import connections, receipts, submissions, timer
from tradepost_broker.market.ledger import Kind, Ledger
from tradepost_broker.market.matching import advance_job, matching
from tradepost_broker.market.matching.eligible_offers import EligibleOffers
from tradepost_broker.market.model.entities import EvidenceKind, WorkerStanding
from tradepost_broker.market.model.events import NotifyFinished
from tradepost_broker.market.settling import (
    begun_work,
    blame,
    break_offs,
    findings,
    late_receipts,
    partial_pay,
    payments,
    rechecks,
    reference_verdicts,
    settlement,
)
from tradepost_broker.market.state import seeded_random
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.state.timers import TimerPurpose
from tradepost_broker.market.state.worker_state import WorkerState
from tradepost_broker.simulation.invariants.broken import SimulationFailure
from tradepost_broker.simulation.random_scenarios import random_scenario
from tradepost_broker.simulation.simulation import Simulation
from tradepost_reputation import CheckRecord

SEEDS_MAX = 60
Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, Plant] = {}


def bug(name: str) -> Callable[[Plant], Plant]:
    """Register a planted bug."""

    def register(plant: Plant) -> Plant:
        BUGS[name] = plant
        return plant

    return register


def nothing(*_: Any, **__: Any) -> None:
    """Stands for a step that is left out."""


# Money


@bug("a payment credits one microcredit more than it debits")
def _(patch: pytest.MonkeyPatch) -> None:
    apply = Ledger._apply

    def generous(self: Ledger, transfer: Any, **options: Any) -> None:
        apply(self, transfer, **options)
        if transfer.kind == Kind.PAY:
            self._open(transfer.credit).available_microcredits += 1

    patch.setattr(Ledger, "_apply", generous)


@bug("the rest of an escrow is not freed")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "void", lambda self, job: self._reservations.pop(job, None) and 0)


@bug("a changed account is not saved when its escrow is freed")
def _(patch: pytest.MonkeyPatch) -> None:
    void = Ledger.void

    def unsaved(self: Ledger, job: str) -> int:
        save, self._save = self._save, nothing
        try:
            return void(self, job)
        finally:
            self._save = save

    patch.setattr(Ledger, "void", unsaved)


@bug("a proven cheat keeps its stake")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "slash", lambda self, worker, **_: 0)


@bug("a proven cheat keeps what is held")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(payments, "claw_back", lambda state, lease: 0)


@bug("payments mature at once")
def _(patch: pytest.MonkeyPatch) -> None:
    hold = payments._hold

    def impatient(state: MarketState, job: Any, lease: Any, amount_microcredits: int) -> None:
        hold(state, job, lease, amount_microcredits)
        lease.matures_at = state.at
        state.timers.put(TimerPurpose.MATURITY, lease.id, state.at)

    patch.setattr(payments, "_hold", impatient)


@bug("the winner is paid less than it bid")
def _(patch: pytest.MonkeyPatch) -> None:
    price = matching.clearing_price
    patch.setattr(matching, "clearing_price", lambda *given, **named: price(*given, **named) // 2)


@bug("an agreeing result is accepted and not paid")
def _(patch: pytest.MonkeyPatch) -> None:
    def unpaid(state: MarketState, job: Any, lease: Any, reason: str) -> None:
        state.close_lease(lease, core_trigger("ACCEPTED"))
        lease.paid_microcredits = lease.price_microcredits

    patch.setattr(payments, "pay", unpaid)


def core_trigger(name: str) -> Any:
    """A trigger of leases, by name."""
    return payments.LeaseTrigger[name]


@bug("stages are paid for that no result confirms")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(partial_pay, "confirmed_stages", lambda lease, results: 1 if lease.stage_hashes else 0)
    patch.setattr(partial_pay, "_worth", lambda price, stages, results: 2 * price)


@bug("begun work costs more than the price of its lease")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(begun_work, "share_of_price", lambda lease, share: 2 * lease.price_microcredits)


# Verdicts


@bug("the confidence asked for is rounded down")
def _(patch: pytest.MonkeyPatch) -> None:
    decide = advance_job.decide

    def lenient(results: Any, *, confidence: float, **named: Any) -> Any:
        return decide(results, confidence=confidence - 0.15, **named)

    patch.setattr(advance_job, "decide", lenient)


@bug("results that disagree count for each other")
def _(patch: pytest.MonkeyPatch) -> None:
    deliver = receipts.deliver

    def agreeable(state: MarketState, event: Any) -> None:
        lease = state.leases.get(event.lease)
        peers = () if lease is None else state.leases_of[lease.job]
        ids = tuple(peer.id for peer in peers if settlement.is_result(peer))
        deliver(state, msgspec.structs.replace(event, agrees_with=ids))

    patch.setitem(core._HANDLERS, core.ReceiptDelivered, agreeable)


@bug("a reference run blames those who agree with it")
def _(patch: pytest.MonkeyPatch) -> None:
    apply = reference_verdicts.apply

    def inverted(state: MarketState, audit: Any, agrees_with: frozenset[str]) -> None:
        judged = {one.id for one in state.leases_of[audit.job] if settlement.is_result(one)}
        apply(state, audit, frozenset(judged - agrees_with))

    patch.setattr(reference_verdicts, "apply", inverted)


@bug("no result is chosen for a spot check")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rechecks.seeded_random, "fraction", lambda *_: 1.0)


@bug("every result is chosen for a spot check")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rechecks.seeded_random, "fraction", lambda *_: 0.0)


@bug("an owner may confirm itself")
def _(patch: pytest.MonkeyPatch) -> None:
    why = EligibleOffers.why_ineligible

    def blind(self: EligibleOffers, worker: WorkerState) -> str:
        reason = why(self, worker)
        return "" if reason == "same owner" and not _has_it(self, worker) else reason

    def _has_it(self: EligibleOffers, worker: WorkerState) -> bool:
        return any(one.worker == worker.record.id for one in self._state.leases_of[self._job.id])

    patch.setattr(EligibleOffers, "why_ineligible", blind)


@bug("being outvoted is no evidence, and agreeing with oneself is")
def _(patch: pytest.MonkeyPatch) -> None:
    learn = findings.learn

    def flattering(state: MarketState, lease: Any, kind: EvidenceKind, **named: Any) -> None:
        learn(state, lease, EvidenceKind.AUDIT_PASSED if kind is EvidenceKind.OUTVOTED else kind, **named)

    patch.setattr(findings, "learn", flattering)


@bug("a lost lease is evidence before its job has ended")
def _(patch: pytest.MonkeyPatch) -> None:
    lose = settlement.lose

    def hasty(state: MarketState, lease: Any, *given: Any, **named: Any) -> None:
        lose(state, lease, *given, **named)
        kind, lease.pending_evidence = lease.pending_evidence, None
        if kind is not None:
            findings.learn(state, lease, kind)

    patch.setattr(settlement, "lose", hasty)


@bug("agreements with one partner count without a bound")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CheckRecord, "confirmed", lambda *_: 0.0)


@bug("a submitter vouches for a worker without a bound")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CheckRecord, "_vouched_by", lambda *_: 0.0)


@bug("a worker is its own partner")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(findings, "independent_partners", lambda own, others, hands: {own.owner: 1.0})


@bug("what a submitter has found counts in full for all others")
def _(patch: pytest.MonkeyPatch) -> None:
    def generous(self: CheckRecord, pipeline: str, submitter: str, day: int) -> float:
        own = [sums[0].on(day) for key, sums in self._found.items() if key[0] == pipeline]
        return max(0.0, sum(own))

    patch.setattr(CheckRecord, "passed", generous)


@bug("one reference run expels")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference_verdicts, "_accuse", reference_verdicts._convict)


@bug("reference runs that differ prove fraud")
def _(patch: pytest.MonkeyPatch) -> None:
    def convict(state: MarketState, job: Any, one: Any, _other: Any) -> None:
        reference_verdicts._convict(state, one, (), reference_verdicts._end_accusation(state, job))

    patch.setattr(reference_verdicts, "_dismiss", convict)


# Leases


@bug("expelled and suspended workers get leases")
def _(patch: pytest.MonkeyPatch) -> None:
    capacity = WorkerState.capacity

    def forgiving(self: WorkerState, day: int) -> int:
        standing, self.record.standing = self.record.standing, WorkerStanding.ACTIVE
        try:
            return capacity(self, day)
        finally:
            self.record.standing = standing

    patch.setattr(WorkerState, "capacity", forgiving)


@bug("examined devices get leases")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkerState, "is_examined", False)


@bug("newcomers are trusted with all of their capacity")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WorkerState, "is_proven", lambda self, day: True)


@bug("an absent worker is granted leases")
def _(patch: pytest.MonkeyPatch) -> None:
    leave = connections._leave

    def present(state: MarketState, worker: WorkerState) -> None:
        leave(state, worker)
        worker.connected = True
        state.place(worker)

    patch.setattr(connections, "_leave", present)


@bug("nonces repeat")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seeded_random, "nonce", lambda seed, lease: b"\x00" * 16)


@bug("leases do not expire")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(timer._HANDLERS, TimerPurpose.LEASE_EXPIRY, nothing)


@bug("an expelled worker keeps its open leases")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settlement, "recall", nothing)


@bug("preemption by the owner counts as a failure")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(receipts, "_may_be_blamed", lambda state, lease, event: True)


@bug("a late receipt does not clear its worker")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(late_receipts, "forgive", nothing)


@bug("a late lease is a hold although nobody else did the job")
def _(patch: pytest.MonkeyPatch) -> None:
    judge = break_offs.judge

    def unfair(state: MarketState, job: Any, successful_owners: set[str]) -> None:
        for lease in state.leases_of[job.id]:
            state.commitments_of(lease).has_failed_trial = True
        with pytest.MonkeyPatch.context() as unwitnessed:  # or nobody would stand for the evidence
            unwitnessed.setattr(blame, "_other_owners", lambda *_: {"somebody"})
            unwitnessed.setattr(blame, "_is_decided_by_reference", lambda *_: True)
            judge(state, job, {"somebody"})

    patch.setattr(break_offs, "judge", unfair)


# Jobs


@bug("deadlines pass unnoticed")
def _(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(timer._HANDLERS, TimerPurpose.DEADLINE, nothing)


@bug("a repeated submission makes a second job")
def _(patch: pytest.MonkeyPatch) -> None:
    submit = submissions.submit

    def forgetful(state: MarketState, event: Any) -> None:
        state.idempotency_keys.pop((event.account, event.idempotency_key), None)
        submit(state, event)

    patch.setitem(core._HANDLERS, core.JobSubmitted, forgetful)


@bug("the end of a job is told twice")
def _(patch: pytest.MonkeyPatch) -> None:
    finish = settlement._finish

    def chatty(state: MarketState, job: Any, trigger: Any, problem: Any) -> None:
        finish(state, job, trigger, problem)
        state.send(NotifyFinished(job.id))

    patch.setattr(settlement, "_finish", chatty)


@bug("a job's end is not saved")
def _(patch: pytest.MonkeyPatch) -> None:
    retire = MarketState.retire_job

    def late(self: MarketState, job: Any) -> None:
        retire(self, job)
        job.paid_microcredits += 1

    patch.setattr(MarketState, "retire_job", late)


# Restarts


@bug("a restart forgets the deadlines of open jobs")
def _(patch: pytest.MonkeyPatch) -> None:
    restore = recovery._restore_job

    def timeless(state: MarketState, job: Any) -> None:
        restore(state, job)
        state.timers.cancel(TimerPurpose.DEADLINE, job.id)
        state.timers.cancel(TimerPurpose.RETIREMENT, job.id)

    patch.setattr(recovery, "_restore_job", timeless)


@bug("a restart forgets the evidence")
def _(patch: pytest.MonkeyPatch) -> None:
    restore = recovery.restore

    def ignorant(records: Any, policy: Any, **options: Any) -> MarketState:
        kept = [one for one in records if not isinstance(one, core.recovery.Evidence)]
        return restore(kept, policy, **options)

    patch.setattr(core.recovery, "restore", ignorant)


@bug("a restart loses the leases in hand")
def _(patch: pytest.MonkeyPatch) -> None:
    restore = recovery.restore

    def empty_handed(records: Any, policy: Any, **options: Any) -> MarketState:
        state = restore(records, policy, **options)
        for worker in state.workers.values():
            worker.open.clear()
        return state

    patch.setattr(core.recovery, "restore", empty_handed)


def is_caught(seed: int) -> bool:
    """Whether this seed's run breaks an invariant of the simulator or of the core."""
    try:
        Simulation(random_scenario(seed), seed).run()
    except (SimulationFailure, InvariantBroken, KeyError, AttributeError):
        return True
    return False


def test_there_are_enough_bugs() -> None:
    assert len(BUGS) >= 20


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name](monkeypatch)
    assert any(is_caught(seed) for seed in range(SEEDS_MAX)), f"no seed below {SEEDS_MAX} finds: {name}"
