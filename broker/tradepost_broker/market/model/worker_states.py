"""The standing of a worker. No other module writes `worker.standing`.

A worker is ACTIVE when it joins. Too low a reputation suspends it until it deserves to return; proven fraud
expels it for ever. An expelled worker may be found guilty again, of a result that it delivered before.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tradepost_broker.market.model.entities import Worker, WorkerStanding
from tradepost_broker.market.model.transition_table import TransitionTable


class WorkerTrigger(StrEnum):
    """What changes a worker's standing."""

    REPUTATION_FELL = "reputation fell too low"
    RETURN_DESERVED = "connected with a recovered reputation"
    EVIDENCE_WITHDRAWN = "evidence withdrawn"
    FRAUD_PROVEN = "fraud proven"


WORKER_STATES: Final = TransitionTable(
    "worker",
    initial=WorkerStanding.ACTIVE,
    transitions={
        (WorkerStanding.ACTIVE, WorkerTrigger.REPUTATION_FELL): WorkerStanding.SUSPENDED,
        (WorkerStanding.ACTIVE, WorkerTrigger.FRAUD_PROVEN): WorkerStanding.EXPELLED,
        (WorkerStanding.SUSPENDED, WorkerTrigger.RETURN_DESERVED): WorkerStanding.ACTIVE,
        (WorkerStanding.SUSPENDED, WorkerTrigger.EVIDENCE_WITHDRAWN): WorkerStanding.ACTIVE,
        (WorkerStanding.SUSPENDED, WorkerTrigger.FRAUD_PROVEN): WorkerStanding.EXPELLED,
        (WorkerStanding.EXPELLED, WorkerTrigger.FRAUD_PROVEN): WorkerStanding.EXPELLED,
    },
)


def transition_worker(worker: Worker, trigger: WorkerTrigger) -> None:
    """Change the standing of `worker`. Raises `StateBroken` for what the table does not have."""
    worker.standing = WORKER_STATES.target(worker.id, worker.standing, trigger)
