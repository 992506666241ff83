"""What lowers this device's reputation, for its owner: the broker's findings, kept in the worker's database.

The broker sends each as it is made. What it found while the worker was not connected is read when the worker
connects again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from tradepost.errors import TradepostError
from tradepost.protocol import Finding
from tradepost.untrusted_text import plain
from tradepost_worker.leases.database import read_rows
from tradepost_worker.link.broker_api import BrokerApi

_ANSWER_S_MAX: Final = 10.0
_DETAIL_CHARS_MAX: Final = 300
#: Kinds of evidence that count in a worker's favour.
_GOOD_KINDS: Final = ("agreed", "audit_passed")
_MEANINGS: Final[Mapping[str, str]] = {
    "failed": "this device failed",
    "expired": "it was not finished in time",
    "outvoted": "results of other owners agree on another result",
    "audit_failed": "a reference run contradicts its result",
}


class _Evidence(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    lease: str
    at: float
    stage: str = ""
    detail: str = ""


class _Standing(msgspec.Struct, frozen=True, kw_only=True):
    evidence: tuple[_Evidence, ...] = ()


def describe_finding(finding: Finding) -> str:
    """What was found, in words: `this device failed (stage resize): it crashed`."""
    what = _MEANINGS.get(finding.kind, finding.kind)
    stage = f" (stage {finding.stage})" if finding.stage else ""
    detail = f": {finding.detail}" if finding.detail else ""
    return plain(f"{what}{stage}{detail}", chars_max=_DETAIL_CHARS_MAX)


async def fetch_findings(broker: BrokerApi, worker: str) -> list[Finding]:
    """What the broker shows of the evidence against `worker`, oldest first; nothing if it does not answer."""
    try:
        standing = await broker.public(f"v1/workers/{worker}", _Standing, s_max=_ANSWER_S_MAX)
    except TradepostError:  # the connection reports that, and the next one asks again
        return []
    return [
        Finding(lease=one.lease, kind=one.kind, at=one.at, stage=one.stage, detail=one.detail)
        for one in reversed(standing.evidence)
        if one.kind not in _GOOD_KINDS
    ]


def read_findings(path: Path, *, since: float = 0.0, rows_max: int = 30) -> list[Finding]:
    """The newest findings since a time (Unix seconds), newest first, read beside a worker that may run."""
    query = "SELECT lease, kind, at, stage, detail FROM finding WHERE at >= ? ORDER BY at DESC LIMIT ?"
    return [Finding(*row) for row in read_rows(path, query, (since, rows_max), since_version=2)]
