"""Executes the market's durable instructions: sends frames to workers and ends of jobs to watchers.

A worker that is not connected misses its frames, and nothing is lost: a grant is repeated when it reconnects
(`Welcome` and the core say which leases it has), an acknowledgement when it delivers again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from tradepost.protocol import Acknowledged, Finding, Grant, Recall, Revocations, Settled
from tradepost_broker.market.model.entities import Evidence, Job, Lease
from tradepost_broker.market.model.events import (
    Instruction,
    NotifyFinished,
    NotifyVerdictChanged,
    Save,
    SendAcknowledged,
    SendGrant,
    SendRecall,
    SendRevocations,
    SendSettled,
)
from tradepost_broker.reporting.views import job_view
from tradepost_broker.storage.shell_records import Delivery, InlineInput
from tradepost_broker.storage.store import Store
from tradepost_broker.streams.sessions import Sessions
from tradepost_broker.streams.watchers import Watchers


class RecordsInMemory(Protocol):
    """The part of the market that the sender uses."""

    def job(self, id_: str) -> Job | None:
        """The job, while it is in memory."""
        ...

    def lease(self, id_: str) -> Lease | None:
        """The lease, while it is in memory."""
        ...


class InstructionSender:
    """Sends what instructions ask for. `revocations` gives the newest list, `clock` Unix seconds."""

    def __init__(
        self,
        *,
        records: RecordsInMemory,
        store: Store,
        sessions: Sessions,
        watchers: Watchers,
        clock: Callable[[], float],
        revocations: Callable[[], Revocations | None] = lambda: None,
    ) -> None:
        self._records = records
        self._store = store
        self._sessions = sessions
        self._watchers = watchers
        self._clock = clock
        self._revocations = revocations
        self._delivery_of = partial(store.get, Delivery)

    def send(self, instruction: Instruction) -> None:
        """Carry out one instruction. The engine sends replies and saves records.

        A worker is told of evidence that lowers its score.
        """
        match instruction:
            case SendGrant(lease=lease, worker=worker):
                self._grant(lease, worker)
            case SendRecall(lease=lease, worker=worker):
                self._sessions.post(worker, Recall(lease))
            case SendAcknowledged(lease=lease, worker=worker, problem=problem):
                self._sessions.post(worker, Acknowledged(lease, problem))
            case SendSettled(
                lease=lease,
                worker=worker,
                verdict=verdict,
                earned_microcredits=earned_microcredits,
                reason=reason,
            ):
                self._sessions.post(worker, Settled(lease, verdict, earned_microcredits, reason))
            case SendRevocations():
                if (newest := self._revocations()) is not None:
                    self._sessions.post_to_all(newest)
            case Save(record=Evidence() as evidence) if evidence.kind.lowers_score:
                self._report(evidence)
            case NotifyFinished(job=job):
                self._finish(job)
            case NotifyVerdictChanged(job=job):
                self._change_verdict(job)
            case _:
                pass

    def _grant(self, lease_id: str, worker: str) -> None:
        lease = self._records.lease(lease_id)
        job = self._records.job(lease.job) if lease is not None else None
        if lease is None or job is None or not self._sessions.is_connected(worker):
            return
        inline = self._store.get(InlineInput, job.id)
        grant = Grant(
            lease=lease.id,
            job=job.id,
            attempt=lease.attempt,
            pipeline=job.pipeline,
            nonce=lease.nonce,
            expires_at=int(lease.expires_at),
            price_microcredits=lease.price_microcredits,
            input=None if inline is None else inline.document,
            input_cid=job.input if inline is None else None,
            left_s=lease.expires_at - self._clock(),
        )
        self._sessions.post(worker, grant)

    def _report(self, evidence: Evidence) -> None:
        finding = Finding(
            lease=evidence.lease,
            kind=evidence.kind.value,
            at=evidence.at,
            stage=evidence.stage,
            detail=evidence.detail,
        )
        self._sessions.post(evidence.worker, finding)

    def _finish(self, job_id: str) -> None:
        job = self._records.job(job_id)
        if job is not None and self._watchers.is_watched(job_id):
            self._watchers.notify(job_view(job, self._delivery_of))

    def _change_verdict(self, job_id: str) -> None:
        job = self._store.get(Job, job_id)  # it may have left memory by now
        if job is not None and self._watchers.watches_verdicts(job.account):
            self._watchers.notify_verdict(job.account, job_view(job, self._delivery_of))
