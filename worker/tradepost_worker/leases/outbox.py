"""Durable records of a worker: the ends of leases until the broker acknowledges them, and earnings.

An end is sent at once and written to SQLite a moment later, many in one transaction: on a good connection it
is acknowledged before that and never touches the disk; on a bad one it survives a restart and is sent again.
The broker takes a lease's end once, however often it comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from cachetools import FIFOCache

from tradepost.errors import UNDECODABLE, DatabaseDamaged, NoEligibleWorker, PipelineTooCostly, Problem
from tradepost.protocol import Deliver, Finding, GiveBack, Settled
from tradepost_worker.leases.database import open_database, read_row, read_rows, typed_errors

#: How long an end waits for its acknowledgement before it is written.
LINGER_S: Final = 0.02

_PIPELINES_MAX: Final = 1 << 16
#: Refusals that another setting of this device could change, by the codes of their errors.
_DEVICES_REFUSALS: Final = (PipelineTooCostly.code(), NoEligibleWorker.code())
#: More than a broker shows of one worker.
_FINDINGS_MAX: Final = 1 << 12


class LeaseEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a lease ended on this side. `document` is an output too large for its frame, uploaded before it."""

    frame: Deliver | GiveBack
    nonce: bytes = b""
    document: bytes | None = None

    @property
    def lease(self) -> str:
        """The lease's id."""
        return self.frame.lease


class Outbox:
    """Ends of leases, settlements and findings, in the SQLite file at `path`.

    `keep` must run beside its users; `clock` gives Unix seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._path = path
        self._database = open_database(path)
        with typed_errors(path):
            rows = self._database.execute("SELECT end FROM lease_end ORDER BY rowid").fetchall()
            newest = "SELECT lease, kind FROM finding ORDER BY at DESC LIMIT ?"
            known = self._database.execute(newest, (_FINDINGS_MAX,)).fetchall()
        ends = [_decode(path, row[0]) for row in rows]
        self._pending = {end.lease: end for end in ends}
        self._written = set(self._pending)
        self._unwritten: set[str] = set()
        #: Bounded, since a broker may never settle some leases.
        self._pipelines: FIFOCache[str, str] = FIFOCache(_PIPELINES_MAX)
        self._known_findings: FIFOCache[tuple[str, str], None] = FIFOCache(_FINDINGS_MAX)
        self._known_findings.update(dict.fromkeys(reversed(known)))
        self._found: list[tuple[str, str, float, str, str]] = []
        self._refusals: dict[str, tuple[str, float, str, str] | None] = {}
        self._settled: list[tuple[str, float, str, int, str]] = []
        self._ran: list[tuple[str, str]] = []
        self._writing: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()

    def add(self, end: LeaseEnd) -> None:
        """Keep how a lease ended; a second end of one lease replaces the first."""
        self._pending[end.lease] = end
        self._unwritten.add(end.lease)
        self._changed.set()

    def acknowledge(self, lease: str) -> None:
        """Forget a lease: the broker has its end."""
        if self._pending.pop(lease, None) is not None:
            self._unwritten.discard(lease)
            if lease in self._written:
                self._changed.set()
            if not self._pending:
                self._emptied.set()

    def record(self, settled: Settled) -> None:
        """Keep what a lease earned; the broker's latest word counts."""
        if (pipeline := self._pipelines.pop(settled.lease, None)) is not None:
            self._ran.append((settled.lease, pipeline))
        self._settled.append(
            (settled.lease, self._clock(), settled.verdict, settled.earned_microcredits, settled.reason)
        )
        self._changed.set()

    def note_refusal(self, pipeline: str, problem: Problem | None) -> None:
        """Keep why a pipeline (by CID) was refused here, for `doctor`; `None` once it has run."""
        row = None
        if problem is not None:
            row = (pipeline, self._clock(), problem.code, f"{problem.title} {problem.detail}".strip())
        self._refusals[pipeline] = row

    def record_finding(self, finding: Finding) -> bool:
        """Keep what lowers the reputation; whether it is new."""
        if (key := (finding.lease, finding.kind)) in self._known_findings:
            return False
        self._known_findings[key] = None
        self._found.append((*key, finding.at, finding.stage, finding.detail))
        self._changed.set()
        return True

    def __contains__(self, lease: str) -> bool:
        return lease in self._pending

    def note_pipeline(self, lease: str, pipeline: str) -> None:
        """Remember what a lease runs, for the owner's accounts."""
        self._pipelines[lease] = pipeline

    def pending(self) -> list[LeaseEnd]:
        """The ends that the broker has not acknowledged, oldest first."""
        return list(self._pending.values())

    async def empty(self) -> None:
        """Wait until everything is acknowledged."""
        self._emptied.clear()
        if self._pending:
            await self._emptied.wait()

    async def keep(self) -> None:
        """Write what has to be written, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(LINGER_S)
            await self.flush()

    async def flush(self) -> None:
        """Make everything durable now, what a cancelled flush was writing included."""
        self._changed.clear()
        added = [self._pending[lease] for lease in self._unwritten]
        removed = [lease for lease in self._written if lease not in self._pending]
        settled, self._settled = self._settled, []
        ran, self._ran = self._ran, []
        found, self._found = self._found, []
        refusals, self._refusals = self._refusals, {}
        self._unwritten.clear()
        self._written.difference_update(removed)
        self._written.update(end.lease for end in added)
        if added or removed or settled or found or refusals:
            writing = self._write_after(self._writing, added, removed, settled, ran, found, refusals.items())
            self._writing = asyncio.create_task(writing)
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def _write_after(self, before: asyncio.Task[None] | None, *rows: Iterable[Any]) -> None:
        """Write in turn: an older row must not replace a newer one."""
        if before is not None:
            await before
        await asyncio.to_thread(self._write, *rows)

    def close(self) -> None:
        """Close the database. What was not flushed is lost."""
        self._database.close()

    def _write(
        self,
        added: Iterable[LeaseEnd],
        removed: Iterable[str],
        settled: Iterable[tuple[object, ...]],
        ran: Iterable[tuple[str, str]],
        found: Iterable[tuple[object, ...]],
        refusals: Iterable[tuple[str, tuple[object, ...] | None]],
    ) -> None:
        rows = [(end.lease, msgspec.msgpack.encode(end)) for end in added]
        with typed_errors(self._path), self._database as database:
            database.executemany("INSERT OR REPLACE INTO lease_end VALUES (?, ?)", rows)
            database.executemany("DELETE FROM lease_end WHERE lease = ?", [(lease,) for lease in removed])
            database.executemany("INSERT OR REPLACE INTO settled VALUES (?, ?, ?, ?, ?)", settled)
            database.executemany("INSERT OR REPLACE INTO lease_pipeline VALUES (?, ?)", ran)
            database.executemany("INSERT OR REPLACE INTO finding VALUES (?, ?, ?, ?, ?)", found)
            gone = [(pipeline,) for pipeline, row in refusals if row is None]
            database.executemany("DELETE FROM refusal WHERE pipeline = ?", gone)
            kept = [row for _, row in refusals if row is not None]
            database.executemany("INSERT OR REPLACE INTO refusal VALUES (?, ?, ?, ?)", kept)


def _decode(path: Path, row: bytes) -> LeaseEnd:
    try:
        return msgspec.msgpack.decode(row, type=LeaseEnd)
    except UNDECODABLE as error:
        raise DatabaseDamaged(f"{path}: the end of a lease is unreadable: {error}", path=str(path)) from None


def read_pending(path: Path) -> int:
    """How many ends of leases wait for the broker, read beside a worker that may be running."""
    row = read_row(path, "SELECT count(*) FROM lease_end", ())
    return row[0] if row else 0


def read_refusals(path: Path, *, since: float, rows_max: int = 10) -> list[tuple[str, str]]:
    """The pipelines (CIDs) that were refused since a time (Unix seconds) and have not run after it, and why.

    Newest first, read beside a worker that may run.
    """
    query = "SELECT pipeline, code, detail FROM refusal WHERE at >= ? ORDER BY at DESC LIMIT ?"
    rows = read_rows(path, query, (since, rows_max), since_version=3)
    return [(pipeline, detail) for pipeline, code, detail in rows if code in _DEVICES_REFUSALS]
