"""The demo's report: facts as one struct, and its rendering for a newcomer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from tradepost.money import counted_credits, format_credits, to_microcredits
from tradepost.plurals import counted


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one worker. `why` explains it in a sentence; `evidence` counts findings by kind."""

    name: str
    worker: str
    price_microcredits: int
    cheats: bool
    auditor: bool
    standing: str
    score: float
    earned_microcredits: int
    stake_microcredits: int
    stake_lost_microcredits: int
    accepted: int
    evidence: dict[str, int]
    findings: list[str]
    caught: bool
    why: str

    @property
    def is_accused(self) -> bool:
        """Whether a reference run has contradicted it, which others must confirm."""
        return self.evidence.get("contradicted", 0) > 0

    @classmethod
    def from_view(cls, view: Mapping[str, Any], *, name: str, price: str, cheats: bool) -> WorkerReport:
        """The report of a worker from the broker's public view of it."""
        evidence: dict[str, int] = view["evidence_counts"]
        standing = str(view["standing"])
        earned = int(view["held_microcredits"]) + int(view["earned_microcredits"])
        lost = int(view["slashed_microcredits"])
        good = evidence.get("agreed", 0) + evidence.get("audit_passed", 0)
        if standing == "expelled":
            why = f"expelled: {evidence.get('audit_failed', 0)} result(s) contradicted by a reference run"
        elif view["auditor"]:
            why = "runs the operator's reference checks; jobs do not pay for them"
        elif good or earned:
            why = f"{view['accepted']} accepted results, {good} confirmed by other owners or by an audit"
        else:
            why = "no accepted result yet"
        return cls(
            name=name,
            worker=str(view["worker"]),
            price_microcredits=to_microcredits(price),
            cheats=cheats,
            auditor=bool(view["auditor"]),
            standing=standing,
            score=float(view["score"]),
            earned_microcredits=earned,
            stake_microcredits=int(view["stake_microcredits"]),
            stake_lost_microcredits=lost,
            accepted=int(view["accepted"]),
            evidence=evidence,
            findings=[_finding(one) for one in view["evidence"] if one["kind"] == "audit_failed"][:3],
            caught=standing == "expelled" and lost > 0,
            why=why,
        )


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's figures. Latencies are from submission to acceptance, by the broker's clock.

    `jobs` counts all digits that were asked about.
    """

    jobs: int
    answered: int
    accuracy: float
    wrong_accepted: int
    cheaters: int
    cheaters_caught: int
    latency_p50_ms: float
    latency_p95_ms: float
    paid_microcredits: int
    replicas_per_job: float
    workers: list[WorkerReport]
    pipeline: str
    url: str
    errors: list[str]

    def broken_promises(self) -> list[str]:
        """What did not hold: every job is answered, nothing wrong is accepted, every cheater is caught."""
        broken: list[str] = []
        if self.answered != self.jobs:
            broken.append(f"{self.jobs - self.answered} of {self.jobs} digits were not answered")
            broken += self.errors[:1]
        if self.wrong_accepted:
            broken.append(f"{counted(self.wrong_accepted, 'wrong answer')} accepted")
        for worker in self.workers:
            if worker.cheats and not worker.caught:
                found = ", ".join(f"{count} {kind}" for kind, count in sorted(worker.evidence.items()))
                broken.append(
                    f"the cheater {worker.name} was not caught: it is {worker.standing}, and its evidence is "
                    f"{found or 'none'}"
                )
        return broken


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """A percentile of durations, in milliseconds with one decimal; 0 for none."""
    return round(float(np.percentile(seconds, percent)) * 1000, 1) if seconds else 0.0


def render(report: Report, console: Console) -> None:
    """Print the report for people."""
    verdict = (
        "[bold green]All checks of the demo passed[/]"
        if not report.broken_promises()
        else "[bold red]A check of the demo failed[/]"
    )
    lines = [
        f"{report.answered} of {report.jobs} digits answered, "
        f"{report.accuracy:.1%} of them with the right label.",
        f"{report.wrong_accepted} wrong answers accepted; "
        f"{report.cheaters_caught} of {report.cheaters} cheaters caught.",
        f"Latency p50 {report.latency_p50_ms} ms, p95 {report.latency_p95_ms} ms, "
        f"with {report.replicas_per_job:.2f} agreeing workers per job.",
        f"Paid {counted_credits(report.paid_microcredits)} in all.",
    ]
    console.print(Panel("\n".join(lines), title=verdict, expand=False))
    console.print(_table(report))
    for worker in report.workers:
        for finding in worker.findings:
            console.print(f"[red]{worker.name}[/]: {finding}")
    for error in report.errors:
        console.print(f"[red]{error}[/]")
    console.print(f"Workers, scores and evidence: {report.url}/")


def _table(report: Report) -> Table:
    table = Table(title="What each worker earned, and why")
    for heading in ("worker", "asks", "earned", "stake lost", "score", "why"):
        table.add_column(heading, justify="left" if heading in ("worker", "why") else "right")
    for worker in sorted(report.workers, key=lambda one: -one.earned_microcredits):
        table.add_row(
            worker.name,
            format_credits(worker.price_microcredits),
            format_credits(worker.earned_microcredits),
            format_credits(worker.stake_lost_microcredits),
            f"{worker.score:.2f}",
            worker.why,
            style="red" if worker.standing == "expelled" else None,
        )
    return table


def _finding(evidence: Mapping[str, Any]) -> str:
    stage = f" at stage {evidence['stage']!r}" if evidence.get("stage") else ""
    return f"job {evidence['job']}{stage}: {evidence['detail']}"
