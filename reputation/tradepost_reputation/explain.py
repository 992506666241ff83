"""Explains a score in sentences that an owner can check against the evidence page."""

from __future__ import annotations

from tradepost_reputation.credibility import credibility_of_worker
from tradepost_reputation.score import QUANTILE, Tally


def explain(tally: Tally, *, day: int, fault_fraction: float, checks: float | None = None) -> list[str]:
    """The lines that lead from evidence to score and credibility as of `day`.

    `checks` are those that count most, for one submitter in one pipeline; without it, all of the tally's.
    """
    record = tally.record(day=day)
    if not tally.counts:
        return [
            f"No evidence yet: a newcomer scores {record.score:.2f}.",
            f"One result of an unchecked worker has credibility {1 - fault_fraction:.3f}.",
        ]
    counted = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(tally.counts.items()))
    lines = [
        f"Evidence: {counted}.",
        f"After decay (half in {tally.half_life_days:g} days): {record.good:.1f} good, {record.bad:.1f} bad.",
    ]
    if record.fraud:
        lines.append("Fraud was proven; this evidence never decays.")
    lines.append(
        f"Score {record.score:.2f}: at least {record.score:.0%} of leases succeed, "
        f"with {1 - QUANTILE:.0%} confidence."
    )
    counted_checks = record.checks if checks is None else checks
    credibility = credibility_of_worker(counted_checks, fault_fraction=fault_fraction)
    scope = "" if checks is None else ", for the submitter and the pipeline that it is most proven for"
    lines.append(
        f"Checks that count: {counted_checks:.1f}{scope}. One result alone has credibility {credibility:.4f}."
    )
    return lines
