"""Ends what a defect of the broker prevents, at nobody's expense.

The engine brings the event once it has put the market back to its last commit: without it, a job or a lease
that makes a handler fail would make it fail again, at every tick and after every restart.
"""

from __future__ import annotations

from tradepost.errors import BrokerDefect
from tradepost_broker.market.model.entities import LeaseState
from tradepost_broker.market.model.events import DefectFound, SendAcknowledged
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.market.model.lease_states import LeaseTrigger
from tradepost_broker.market.settling import late_receipts, settlement
from tradepost_broker.market.state.market_state import MarketState


def end(state: MarketState, event: DefectFound) -> None:
    """Take the lease back without evidence, or fail the job and refund it. What has ended stays as it is."""
    lease = state.leases.get(event.lease)
    if lease is not None:
        state.job_at_hand = lease.job
        problem = BrokerDefect(f"lease {lease.id}: its result could not be processed").to_problem()
        state.send(SendAcknowledged(lease.id, lease.worker, problem))
        if lease.state is LeaseState.OPEN:
            settlement.lose(state, lease, LeaseTrigger.GIVEN_BACK, problem)
        else:
            late_receipts.excuse(state, lease)
    job = state.jobs.get(event.job)
    if job is not None and job.status not in FINAL:
        state.job_at_hand = job.id
        settlement.fail(state, job, BrokerDefect(f"job {job.id} could not be processed"))
