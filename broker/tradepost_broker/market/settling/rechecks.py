"""Checks of results that need none to be accepted: spot checks, and second results for the believed.

A spot check is a reference run after the job has ended. It is made at least as often as it takes that a cheat
gains nothing, given what it has to lose, and more often if two owners agree who rarely agree with others.
A result of a worker that is believed alone is
checked more often, by its record and the job's confidence (`trust.check_rate`): by a reference run if an
auditor is idle, else by a result of another owner, which the job waits for. A worker of which another result
is contradicted, and not cleared yet, is not believed alone at all, nor one whose owner is found to collude,
or had another device expelled, or whose owner has more results that could still be undone than its stakes and
records cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from tradepost_broker.market.ledger import held_of, stake_of
from tradepost_broker.market.model.amounts import bid_for
from tradepost_broker.market.model.entities import Job, Lease, LeasePurpose, LeaseState
from tradepost_broker.market.settling import owner_examination
from tradepost_broker.market.settling.reference_runs import able_auditors
from tradepost_broker.market.state import seeded_random
from tradepost_broker.market.state.market_state import MarketState
from tradepost_broker.market.trust.check_rate import check_rate, deterrent_rate, is_covered


def choose(state: MarketState, job: Job, lease: Lease) -> None:
    """Choose by chance, now that a result is committed, whether and how it is checked."""
    policy = state.policy
    if (
        state.auditors
        and not job.spot_check
        and state.audits_wanted.has_room(job.account, policy.audit_backlog_max)
    ):
        # The check comes after the job has ended, by an auditor, whose work the operator pays: no submitter
        # waits for it.
        rate = spot_check_rate(state, lease)
        job.spot_check = seeded_random.fraction(state.seed, "spot check", lease.id) < rate
    rate = _rate(state, job, lease)
    if rate == 0 or seeded_random.fraction(state.seed, "recheck", lease.id) >= rate:
        return
    if _has_idle_auditor(state, job):
        job.spot_check = True
    else:
        lease.recheck = True


def lift(state: MarketState, job: Job) -> bool:
    """Let a job do without the second result that nobody can give; whether it waited for one."""
    chosen = [lease for lease in state.ordinary_leases(job, LeaseState.DELIVERED) if lease.recheck]
    for lease in chosen:
        lease.recheck = False
        state.save(lease)
        job.spot_check = job.spot_check or bool(state.auditors)
    return bool(chosen)


def _rate(state: MarketState, job: Job, lease: Lease) -> float:
    """The probability that a second opinion is asked for; 0 unless this one result would be accepted."""
    policy = state.policy
    if not policy.recheck_rate or lease.must_be_confirmed or job.confidence <= 1 - policy.fault_fraction:
        return 0.0
    if any(one is not lease and one.purpose is not LeasePurpose.AUDIT for one in state.live_leases(job)):
        return 0.0
    belief = state.workers[lease.worker].belief(state.scope(job), state.day)
    if belief.credibility < job.confidence:
        return 0.0
    worker = state.workers[lease.worker]
    is_suspect = owner_examination.is_suspect(state, worker) or state.finding_of(worker.record.owner)
    if is_suspect or _is_in_doubt(state, lease) or not is_owner_covered(state, job, lease):
        return 1.0
    rate = check_rate(
        belief.checks,
        job.confidence,
        fault_fraction=policy.fault_fraction,
        rate_max=policy.recheck_rate,
    )
    return max(rate, _deterrent_rate(state, lease))


def spot_check_rate(state: MarketState, lease: Lease) -> float:
    """The probability that a delivered result is checked by a reference run, if an auditor has room."""
    return max(state.policy.audit_rate, _deterrent_rate(state, lease), _pair_rate(state, lease))


def note_agreement(state: MarketState, agreed: Sequence[Lease]) -> None:
    """Note whose results agree in a job that is accepted."""
    owners = sorted(state.workers[lease.worker].record.owner for lease in agreed)
    for owner, other in combinations(owners, 2):
        state.agreeing_pairs.add(owner, other)


def _pair_rate(state: MarketState, lease: Lease) -> float:
    """The probability of a check of a result that agrees with a usual partner's, more than draws explain."""
    rate_max = state.policy.agreeing_check_rate
    if not (rate_max and state.policy.audit_rate):
        return 0.0
    owner = state.workers[lease.worker].record.owner
    others = state.ordinary_leases(state.jobs[lease.job], LeaseState.DELIVERED)
    return rate_max * max(
        (
            state.agreeing_pairs.excess(
                owner,
                state.workers[other.worker].record.owner,
                drawn_from=max(lease.drawn_from, other.drawn_from),
            )
            for other in others
            if other is not lease and other.group == lease.group
        ),
        default=0.0,
    )


def _deterrent_rate(state: MarketState, lease: Lease) -> float:
    """The probability of a check at which a cheat gains nothing; 0 in markets that take no stakes."""
    policy = state.policy
    if not (policy.audit_rate and state.auditors):
        return 0.0
    return deterrent_rate(
        policy.cheat_gain_prices * lease.price_microcredits,
        at_stake_microcredits=_balance(state, stake_of(lease.worker))
        + _balance(state, held_of(lease.worker)),
    )


def is_owner_covered(state: MarketState, job: Job, lease: Lease) -> bool:
    """Whether the stakes and records of its owner's devices cover one more result that is not paid out."""
    results_per_check = state.policy.exposure_results
    if not results_per_check:
        return True
    scope = state.scope(job)
    devices = state.workers_of[state.workers[lease.worker].record.owner]
    if len(devices) > state.policy.scan_max:
        return False
    market_price_microcredits = bid_for(state.offers.lower_quartile(state.need(job)), job.units)
    return is_covered(
        sum(_balance(state, held_of(device.record.id)) for device in devices),
        lease.price_microcredits,
        market_price_microcredits=market_price_microcredits,
        stake_microcredits=sum(_balance(state, stake_of(device.record.id)) for device in devices),
        checks_passed=math.fsum(device.belief(scope, state.day).checks for device in devices),
        results_per_check=results_per_check,
    )


def _balance(state: MarketState, account: str) -> int:
    return state.ledger.account(account).available_microcredits


def _is_in_doubt(state: MarketState, lease: Lease) -> bool:
    """Whether another result of the worker is contradicted, by a reference run or another worker's result."""
    if lease.worker in state.accusations:
        return True
    others = state.workers[lease.worker].delivered.values()
    return any(
        sibling.group != other.group
        for other in others
        if other is not lease
        for sibling in state.ordinary_leases(state.jobs[other.job], LeaseState.DELIVERED)
    )


def _has_idle_auditor(state: MarketState, job: Job) -> bool:
    return any(len(auditor.open) < auditor.capacity(state.day) for auditor in able_auditors(state, job))
