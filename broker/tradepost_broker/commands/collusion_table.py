"""Findings of collusion as a table for the operator, the newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from tradepost_broker.commands.tables import local_time
from tradepost_broker.market.model.entities import CollusionFinding

_JOBS_SHOWN: Final = 4


def collusion_table(findings: Sequence[CollusionFinding]) -> Table:
    """One row for each finding: who erred together, how often, and how likely that is by chance."""
    table = Table("owners", "found", "wrong together", "expected", "by chance", "newest jobs", "ended")
    for one in sorted(findings, key=lambda finding: -finding.found_at):
        table.add_row(
            ", ".join(one.owners),
            local_time(one.found_at),
            f"{one.co_wrong} jobs",
            f"{one.expected:.2f}",
            f"{one.p_value:.1e}",
            ", ".join(one.jobs[-_JOBS_SHOWN:]),
            "" if one.withdrawn_at is None else local_time(one.withdrawn_at),
        )
    return table
