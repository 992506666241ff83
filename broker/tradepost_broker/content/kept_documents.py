"""The bytes of jobs' documents that are kept, by the account that submitted the jobs.

Inputs that came inside requests, outputs that came inside frames, and the blocks of outputs that were
uploaded for a lease are all kept for the submitter, so they count against the submitter's quota. What an
account uploads itself is counted by `Uploads`, which also reports the blocks of outputs here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tradepost_broker.market import Market
from tradepost_broker.market.model.entities import Job, Lease, LeaseState
from tradepost_broker.market.model.job_states import FINAL
from tradepost_broker.storage.store import Reader

#: What a block takes of a disk at least, and is counted as: of a few bytes each there could be too many.
BLOCK_BYTES_MIN: Final = 4096
#: What begins the name of a holder of blocks that is a lease.
LEASE: Final = "lease:"

_INPUTS: Final = (
    "SELECT jobs.account, SUM(LENGTH(inputs.document)) FROM jobs JOIN inputs ON inputs.id = jobs.id"
    " WHERE {condition} GROUP BY jobs.account"
)
_OUTPUTS: Final = (
    "SELECT jobs.account, SUM(LENGTH(deliveries.output)) FROM jobs JOIN leases ON leases.job = jobs.id"
    " JOIN deliveries ON deliveries.id = leases.id"
    " WHERE deliveries.output IS NOT NULL AND {condition} GROUP BY jobs.account"
)
_FINISHED: Final = "jobs.finished_at >= ? AND jobs.finished_at < ?"
_ANY: Final = "TRUE"
# ';' is the character after ':'.
_OUTPUT_BLOCKS: Final = (
    "SELECT jobs.account, SUM(MAX(uploads.size_bytes, ?)) FROM uploads"
    " JOIN leases ON leases.id = SUBSTR(uploads.holder, LENGTH('lease:') + 1)"
    " JOIN jobs ON jobs.id = leases.job"
    " WHERE uploads.holder >= 'lease:' AND uploads.holder < 'lease;' GROUP BY jobs.account"
)
_OLDEST: Final = (
    "SELECT jobs.id, COALESCE(LENGTH(inputs.document), 0) + COALESCE((SELECT SUM(LENGTH(deliveries.output))"
    " FROM leases JOIN deliveries ON deliveries.id = leases.id WHERE leases.job = jobs.id), 0)"
    " FROM jobs LEFT JOIN inputs ON inputs.id = jobs.id"
    " WHERE jobs.account = ? AND jobs.id > ? AND jobs.finished_at IS NOT NULL ORDER BY jobs.id LIMIT ?"
)
_OLDEST_OPEN: Final = "SELECT MIN(id) FROM jobs WHERE account = ? AND finished_at IS NULL"
_LEASES_WITH_BLOCKS: Final = (
    "SELECT leases.id FROM leases WHERE leases.job = ?"
    " AND EXISTS (SELECT 1 FROM uploads WHERE uploads.holder = 'lease:' || leases.id)"
)


class KeptDocuments:
    """Counts documents by account.

    They count before they are durable, so that those of one batch count for each other.
    """

    def __init__(self, *, store: Reader) -> None:
        self._store = store
        self._inline: Counter[str] = Counter()
        self._blocks: Counter[str] = Counter(self._sums(_OUTPUT_BLOCKS, (BLOCK_BYTES_MIN,)))
        self.recount()

    def recount(self) -> None:
        """Count the inline documents that are durable anew: the market was restored from them.

        No block is written with the market's decisions, so their count still holds, with those on their way.
        """
        self._inline = Counter()
        for statement in (_INPUTS, _OUTPUTS):
            self._inline.update(self._sums(statement.format(condition=_ANY)))

    def bytes_of(self, account: str) -> int:
        """The bytes that are kept for the account's jobs."""
        return self._inline[account] + self._blocks[account]

    def add(self, account: str, size_bytes: int) -> None:
        """Count an inline document that is kept from now on."""
        self._inline[account] += size_bytes

    def subtract(self, freed: Mapping[str, int]) -> None:
        """Count inline documents no more; their bytes by account."""
        for account, size_bytes in freed.items():
            self._inline[account] = max(0, self._inline[account] - size_bytes)

    def add_blocks(self, account: str, size_bytes: int) -> None:
        """Count blocks of an output that are kept from now on."""
        self._blocks[account] += size_bytes

    def subtract_blocks(self, account: str, size_bytes: int) -> None:
        """Count blocks of an output no more."""
        self._blocks[account] = max(0, self._blocks[account] - size_bytes)

    def finished_within(self, span: tuple[float, float]) -> Counter[str]:
        """The bytes by account of the inline documents of jobs that finished in a span of time."""
        found: Counter[str] = Counter()
        for statement in (_INPUTS, _OUTPUTS):
            found.update(self._sums(statement.format(condition=_FINISHED), span))
        return found

    def oldest_finished(self, account: str, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """Finished jobs of an account after the job `after`, and the bytes of their inline documents."""
        return [(row[0], row[1]) for row in self._store.rows(_OLDEST, (account, after, limit))]

    def oldest_open(self, account: str) -> str:
        """The oldest job of an account that has not ended; "" if there is none."""
        [(job,)] = self._store.rows(_OLDEST_OPEN, (account,))
        return job or ""

    def leases_with_blocks(self, job: str) -> Sequence[str]:
        """The leases of a job whose outputs were uploaded in blocks."""
        return [row[0] for row in self._store.rows(_LEASES_WITH_BLOCKS, (job,))]

    def account_of_lease(self, lease: str) -> str:
        """The account whose job the lease is for; "" if it is unknown."""
        found = self._store.get(Lease, lease)
        job = None if found is None else self._store.get(Job, found.job)
        return "" if job is None else job.account

    def _sums(self, statement: str, parameters: tuple[Any, ...] = ()) -> dict[str, int]:
        return {row[0]: row[1] or 0 for row in self._store.rows(statement, parameters)}


def are_needed(market: Market, job_id: str) -> bool:
    """Whether the market may still use a job's documents.

    It may while the job is open, being checked, or in memory with a payment. Those of a job that ended
    without a payment, and without a lease that is still open, are of no use to anyone.
    """
    job = market.job(job_id)
    if job is None:
        return False
    has_open_lease = any(lease.state is LeaseState.OPEN for lease in market.leases_of(job_id))
    is_of_use = job.paid_microcredits > 0 or job.verdict_changed_at is not None
    return job.status not in FINAL or is_of_use or job.spot_check or has_open_lease
