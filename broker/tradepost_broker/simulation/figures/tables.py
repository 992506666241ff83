"""Figures for people: one table for each question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tradepost_broker.simulation.figures.figures import ConfidenceFigures, RunFigures, Speed, TeamFigures


def confidence_table(figures: Iterable[ConfidenceFigures]) -> Table:
    """What customers got, by confidence: wrong results, those still wrong at maturity, results per job.

    `both right` are those redone or withdrawn although their first result was right.
    """
    table = _table(
        "What customers got",
        (
            *("confidence", "jobs", "accepted", "failed", "wrong", "still wrong"),
            *("corrected", "redone", "withdrawn", "both right", "results", "p50 s", "p95 s"),
        ),
    )
    for one in figures:
        table.add_row(
            f"{one.confidence:g}",
            f"{one.jobs:,}",
            f"{one.accepted:,}",
            f"{one.failed:,}",
            _share(one.wrong_accepted, one.accepted),
            _share(one.wrong_at_maturity, one.accepted),
            f"{one.corrected:,}",
            f"{one.redone:,}",
            f"{one.withdrawn:,}",
            f"{one.withdrawn_right:,}",
            f"{one.redundancy:.3f}",
            f"{one.latency_p50_s:.2f}",
            f"{one.latency_p95_s:.2f}",
        )
    return table


def team_table(teams: Iterable[TeamFigures]) -> Table:
    """What became of each model's workers and accounts, profit in credits of all members together.

    `wrong` are wrong results, `accepted` those that customers got, `unpaid` results that it read for free.
    """
    table = _table(
        "What became of each model (* is hostile)",
        ("model", "workers", "leases", "lost", "wrong", "accepted", "profit", "unpaid", "susp.", "exp."),
    )
    for one in teams:
        table.add_row(
            f"{one.model} *" if one.hostile else one.model,
            f"{one.workers:,}",
            f"{one.leases:,}",
            f"{one.leases_lost:,}",
            f"{one.wrong_results:,}",
            f"{one.wrong_accepted:,}",
            f"{one.profit_microcredits / 1e6:,.3f}",
            f"{one.unpaid_results:,}",
            f"{one.suspended:,}",
            f"{one.expelled:,}",
        )
    return table


def summary(figures: RunFigures, speed: Speed) -> Sequence[str]:
    """The rest, in lines."""
    return (
        f"spot checks: {figures.spot_check_rate:.1%} of accepted jobs; honest workers suspended "
        f"{figures.honest_suspended}, slashed {figures.honest_slashed}",
        f"{figures.events:,} events in {figures.virtual_s:,.0f} virtual seconds, {figures.crashes} crashes; "
        f"{speed.times_real_time:,.0f} times real time, {speed.jobs / max(speed.real_s, 1e-9):,.0f} jobs/s, "
        f"{speed.core_jobs_per_s:,.0f} jobs/s in the core alone",
        f"digest {figures.digest}",
    )


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.1e})" if count and total else str(count)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
