"""Running counts of durable records, so that showing a standing never scans the tables.

Counted once from the tables at the start, then from each instruction that is released.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from sqlalchemy import func, select

from tradepost_broker.market.ledger import Kind, held_of, stake_of
from tradepost_broker.market.model.entities import Evidence, Job, Transfer
from tradepost_broker.market.model.events import Instruction, NotifyFinished, Save
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.store import Store


class RunningCounts:
    """Counts by worker, and of jobs by status. `find_job` gives a job that has just ended."""

    def __init__(self, *, store: Store, find_job: Callable[[str], Job | None]) -> None:
        self._find_job = find_job
        self._store = store
        self._evidence: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._paid_leases: Counter[str] = Counter()
        self._slashed: Counter[str] = Counter()
        self.jobs: Counter[str] = Counter()
        self._count(store)

    def evidence_of(self, worker: str) -> dict[str, int]:
        """How often each kind of evidence was found about a worker."""
        return dict(self._evidence.get(worker, {}))

    def paid_leases_of(self, worker: str) -> int:
        """How many of a worker's results were accepted and paid, less those whose pay was taken back."""
        return self._paid_leases[held_of(worker)]

    def slashed_of(self, worker: str) -> int:
        """The microcredits of stake that were taken from a worker."""
        return self._slashed[stake_of(worker)]

    def observe(self, instruction: Instruction) -> None:
        """Count one durable instruction."""
        match instruction:
            case Save(record=Evidence(worker=worker, kind=kind)):
                self._evidence[worker][kind.value] += 1
            case Save(record=Transfer(kind=Kind.PAY, credit=account)):
                self._paid_leases[account] += 1
            case Save(record=Transfer(kind=Kind.CLAW_BACK, debit=account, lease=lease)):
                # Stages that were paid were not counted.
                self._paid_leases[account] -= self._store.get(Transfer, f"{lease}:{Kind.PAY}") is not None
            case Save(
                record=Transfer(kind=Kind.SLASH, debit=account, amount_microcredits=amount_microcredits)
            ):
                self._slashed[account] += amount_microcredits
            case NotifyFinished(job=job_id):
                job = self._find_job(job_id)
                self.jobs["unknown" if job is None else job.status.value] += 1
            case _:
                pass

    def _count(self, store: Store) -> None:
        evidence, jobs = CODECS[Evidence].table.c, CODECS[Job].table.c
        transfers = CODECS[Transfer].table.c
        found = select(evidence.worker, evidence.kind, func.count())
        for worker, kind, count in store.query(found.group_by(evidence.worker, evidence.kind)):
            self._evidence[worker][kind] = count
        ended = select(jobs.status, func.count()).where(jobs.finished_at.is_not(None))
        for status, count in store.query(ended.group_by(jobs.status)):
            self.jobs[status] = count
        paid = select(transfers.credit, func.count()).where(transfers.kind == Kind.PAY)
        for account, count in store.query(paid.group_by(transfers.credit)):
            self._paid_leases[account] = count
        paid_ids = select(transfers.id).where(transfers.kind == Kind.PAY)
        clawed_back = select(transfers.debit, func.count()).where(
            transfers.kind == Kind.CLAW_BACK, transfers.lease.concat(f":{Kind.PAY}").in_(paid_ids)
        )
        for account, count in store.query(clawed_back.group_by(transfers.debit)):
            self._paid_leases[account] -= count
        slashed = select(transfers.debit, func.sum(transfers.amount)).where(transfers.kind == Kind.SLASH)
        for account, amount_microcredits in store.query(slashed.group_by(transfers.debit)):
            self._slashed[account] = amount_microcredits
