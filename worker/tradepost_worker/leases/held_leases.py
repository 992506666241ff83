"""The leases that a worker holds, from grant to acknowledgement, whatever the connection does meanwhile.

A lease is either running or has an end in the outbox; it leaves the outbox when the broker has acknowledged
the end. What is finished while there is no connection is delivered with the next one.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from tradepost.content import Cid, add_bytes
from tradepost.errors import DeviceBusy, RunnerFailed, TradepostError
from tradepost.money import format_credits
from tradepost.plurals import counted
from tradepost.protocol import Acknowledged, Finding, GiveBack, GiveBackReason, Grant, Settled
from tradepost.untrusted_text import plain
from tradepost_worker.leases.findings import describe_finding
from tradepost_worker.leases.lease_executor import LeaseExecutor, StageProgress, give_back, preempted
from tradepost_worker.leases.outbox import LeaseEnd, Outbox
from tradepost_worker.link.broker_api import BrokerApi
from tradepost_worker.link.connection import BrokerStream, until_reached

#: As many as a worker's hello may name.
_HELD_MAX: Final = 4096

_REASON_CHARS_MAX: Final = 500

log = logging.getLogger(__name__)


class _Running(NamedTuple):
    task: asyncio.Task[None]
    grant: Grant
    progress: StageProgress
    #: When its time is over, by the event loop's clock.
    ends_at: float


class HeldLeases:
    """Up to `capacity` running leases, and the ends of those that finished."""

    def __init__(
        self,
        *,
        executor: LeaseExecutor,
        outbox: Outbox,
        broker: BrokerApi,
        capacity: int,
        rng: random.Random,
    ) -> None:
        self._executor = executor
        self._outbox = outbox
        self._broker = broker
        self._capacity = capacity
        self._paused: str | None = None
        self._rng = rng
        self.preemptions = 0
        self._running: dict[str, _Running] = {}
        self._uploads: set[asyncio.Task[None]] = set()
        self._stream: BrokerStream | None = None

    @property
    def running(self) -> int:
        """How many leases run."""
        return len(self._running)

    @property
    def stages_done(self) -> dict[str, int]:
        """How many stages of each running lease are done, where any are."""
        counts = {lease: len(running.progress.stages) for lease, running in self._running.items()}
        return {lease: count for lease, count in counts.items() if count}

    @property
    def unfinished(self) -> int:
        """How many leases run, or have an end that the broker could take now and has not acknowledged."""
        return len(self._running) + (0 if self._stream is None else len(self._outbox.pending()))

    @property
    def held(self) -> tuple[str, ...]:
        """The leases that run or wait for their acknowledgement."""
        ended = (end.lease for end in self._outbox.pending())
        return tuple(dict.fromkeys((*self._running, *ended)))[:_HELD_MAX]

    async def keep(self) -> None:
        """Write the ends of leases to disk as they come, until cancelled. Must run beside the rest."""
        await self._outbox.keep()

    async def flush(self) -> None:
        """Write the ends of leases to disk now."""
        await self._outbox.flush()

    async def delivered(self) -> None:
        """Wait until the broker has acknowledged the end of every lease."""
        await self._outbox.empty()

    def attach(self, stream: BrokerStream) -> None:
        """Deliver over a new connection: stop the leases that the broker has closed meanwhile, and deliver
        again what was not acknowledged. Leases that a restart lost come again as grants."""
        self._stream = stream
        held_by_broker = stream.welcome.leases
        for lease in [lease for lease in self._running if lease not in held_by_broker]:
            self.recall(lease, "the broker no longer holds it")
        for end in self._outbox.pending():
            self._deliver(end)

    async def detach(self) -> None:
        """The connection ended."""
        self._stream = None
        for upload in self._uploads:
            upload.cancel()
        await asyncio.gather(*self._uploads, return_exceptions=True)

    def take(self, grant: Grant) -> None:
        """Start working on a lease. A repeated grant changes nothing; one too many is given back."""
        if grant.lease in self._running or grant.lease in self._outbox:
            return
        if self._paused is not None:
            self._hand_in(preempted(grant.lease, self._paused))
            return
        now = asyncio.get_running_loop().time()
        # The broker counts no lease whose time is over, though its runner may take a while to end.
        if sum(running.ends_at > now for running in self._running.values()) >= self._capacity:
            error = DeviceBusy(
                f"this device runs at most {counted(self._capacity, 'lease')} at the same time"
            )
            self._finish(give_back(grant.lease, error, GiveBackReason.REFUSED), grant.pipeline)
            return
        self._outbox.note_pipeline(grant.lease, grant.pipeline)
        progress = StageProgress()
        task = asyncio.create_task(self._run(grant, progress))
        self._running[grant.lease] = _Running(task, grant, progress, now + (grant.left_s or 0.0))

    def recall(self, lease: str, why: str) -> None:
        """Stop a lease, if it still runs: its end is not wanted."""
        if (running := self._running.pop(lease, None)) is not None:
            running.task.cancel()
            log.info("Stopped lease %s: %s.", lease, why, extra={"action": "lease_stopped", "lease": lease})

    def refuse(self, pipelines: Mapping[str, TradepostError]) -> None:
        """Stop and give back every lease of these pipelines (by CID), which may not run here any more."""
        for lease, running in list(self._running.items()):
            if (error := pipelines.get(running.grant.pipeline)) is not None:
                self.recall(lease, str(error))
                self._finish(give_back(lease, error, GiveBackReason.REFUSED), running.grant.pipeline)

    async def give_back_all(self) -> None:
        """Stop and give back whatever runs, because the owner stops the worker, and what still comes."""
        self._paused = "the owner stopped the worker"
        for end in await self._preempt_all(self._paused):
            self._finish(end)

    async def pause(self, why: str, *, finish: bool = False) -> None:
        """Take no more leases, until `resume`, because the owner wants the device. What runs is stopped and
        given back at once, unless it may `finish`."""
        self._paused = why
        if finish:
            return
        ends = await self._preempt_all(why)
        self.preemptions += len(ends)
        for end in ends:
            self._hand_in(end)
        if ends:
            log.info(
                "Gave back %s: %s.",
                counted(len(ends), "lease"),
                why,
                extra={"action": "preempted", "leases": [end.lease for end in ends]},
            )

    def resume(self) -> None:
        """Take leases again."""
        self._paused = None

    def acknowledge(self, frame: Acknowledged) -> None:
        """The broker has a lease's end."""
        self._outbox.acknowledge(frame.lease)
        if frame.problem is not None:
            log.info(
                "Lease %s was not accepted: %s %s",
                frame.lease,
                frame.problem.title,
                frame.problem.detail,
                extra={"action": "lease_not_taken", "lease": frame.lease, "code": frame.problem.code},
            )

    def settle(self, frame: Settled) -> None:
        """Record what a lease earned, and why."""
        self._outbox.record(frame)
        log.info(
            "Lease %s is %s, earned %s credits: %s",
            frame.lease,
            frame.verdict,
            format_credits(frame.earned_microcredits),
            frame.reason,
            extra={
                "action": "lease_settled",
                "lease": frame.lease,
                "verdict": frame.verdict,
                "earned_microcredits": frame.earned_microcredits,
            },
        )

    def note_finding(self, finding: Finding) -> None:
        """Record what lowers this device's reputation, and log it the first time."""
        if self._outbox.record_finding(finding):
            log.warning(
                "Lease %s lowers this device's reputation: %s.",
                finding.lease,
                describe_finding(finding),
                extra={"action": "finding", "lease": finding.lease, "kind": finding.kind},
            )

    async def _run(self, grant: Grant, progress: StageProgress) -> None:
        try:
            end = await self._executor.run(grant, progress)
        except Exception as defect:  # one lease's defect must not keep its job waiting, nor end the others
            log.exception(
                "Lease %s ended because of a defect in the worker.", grant.lease, extra={"action": "defect"}
            )
            end = give_back(grant.lease, RunnerFailed(f"a defect in the worker: {type(defect).__name__}"))
        del self._running[grant.lease]
        if not isinstance(end.frame, GiveBack):
            self._outbox.note_refusal(grant.pipeline, None)
        elif end.frame.reason is GiveBackReason.REFUSED:
            self._outbox.note_refusal(grant.pipeline, end.frame.problem)
        self._finish(end, grant.pipeline)

    async def _preempt_all(self, why: str) -> list[LeaseEnd]:
        """Stop what runs for the owner, and give how each lease ended so."""
        stopped = list(self._running.values())
        self._running.clear()
        for running in stopped:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in stopped), return_exceptions=True)
        return [self._executor.preempt(running.grant, running.progress, why) for running in stopped]

    def _finish(self, end: LeaseEnd, pipeline: str | None = None) -> None:
        if isinstance(end.frame, GiveBack):
            _log_return(end.frame, pipeline)
        self._hand_in(end)

    def _hand_in(self, end: LeaseEnd) -> None:
        self._outbox.add(end)
        self._deliver(end)

    def _deliver(self, end: LeaseEnd) -> None:
        if self._stream is None:
            return
        if end.document is None:
            self._stream.send(end.frame)
            return
        task = asyncio.create_task(self._upload(end, end.document, self._stream))
        self._uploads.add(task)
        task.add_done_callback(self._uploads.discard)

    async def _upload(self, end: LeaseEnd, document: bytes, stream: BrokerStream) -> None:
        """Upload an output, then deliver; try again while the connection lasts."""
        blocks: list[tuple[Cid, bytes]] = []
        add_bytes(document, put=lambda cid, data: blocks.append((cid, data)))

        async def put() -> None:
            for cid, data in blocks:
                await self._broker.put_lease_block(end.lease, end.nonce, cid, data)

        try:
            await until_reached(put, rng=self._rng)
        except TradepostError as error:
            self._finish(give_back(end.lease, error))
        else:
            stream.send(end.frame)


def _log_return(frame: GiveBack, pipeline: str | None) -> None:
    """Log why a lease is given back: as a warning if the broker may hold it against this device."""
    problem = frame.problem
    where = [f"pipeline {pipeline}"] if pipeline else []
    where += [f"stage {problem.stage}"] if problem.stage else []
    log.log(
        logging.WARNING if frame.reason is GiveBackReason.FAILED else logging.INFO,
        "Gave back lease %s, %s%s: %s",
        frame.lease,
        frame.reason.value,
        f" ({', '.join(where)})" if where else "",
        plain(f"{problem.title} {problem.detail}", chars_max=_REASON_CHARS_MAX),
        extra={
            "action": "lease_returned",
            "lease": frame.lease,
            "pipeline": pipeline,
            "code": problem.code,
        },
    )
