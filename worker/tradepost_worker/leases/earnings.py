"""What a worker earned, by day and by pipeline, read beside a worker that may be running."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from tradepost_worker.leases.database import read_row, read_rows


class EarningsRow(msgspec.Struct, frozen=True, kw_only=True):
    """Earnings of one day (local, `2026-11-21`), or of one pipeline."""

    of: str
    leases: int
    paid_leases: int
    earned_microcredits: int


class Earnings(msgspec.Struct, frozen=True, kw_only=True):
    """A sum over settled leases."""

    leases: int
    paid_leases: int
    earned_microcredits: int


def read_earnings(path: Path, *, since: float = 0.0) -> Earnings:
    """What was earned since a time (Unix seconds), read beside a worker that may be running."""
    row = read_row(
        path,
        "SELECT count(*), coalesce(sum(earned_microcredits > 0), 0),"
        " coalesce(sum(earned_microcredits), 0) FROM settled WHERE at >= ?",
        (since,),
    )
    leases, paid_leases, earned = row or (0, 0, 0)
    return Earnings(leases=leases, paid_leases=paid_leases, earned_microcredits=earned)


_SUMS: Final = "count(*), coalesce(sum(earned_microcredits > 0), 0), coalesce(sum(earned_microcredits), 0)"
_BY_DAY: Final = (
    f"SELECT date(at, 'unixepoch', 'localtime') AS day, {_SUMS} FROM settled"  # noqa: S608 - of constants
    " GROUP BY day ORDER BY day DESC LIMIT ?"
)
_BY_PIPELINE: Final = (
    f"SELECT coalesce(pipeline, '(unknown)') AS ran, {_SUMS}"  # noqa: S608 - of constants
    " FROM settled LEFT JOIN lease_pipeline USING (lease) GROUP BY ran ORDER BY 4 DESC LIMIT ?"
)


def read_earnings_by_day(path: Path, *, rows_max: int = 30) -> list[EarningsRow]:
    """What was earned per day, newest first."""
    return _read_earnings_rows(path, _BY_DAY, rows_max)


def read_earnings_by_pipeline(path: Path, *, rows_max: int = 30) -> list[EarningsRow]:
    """What was earned per pipeline (CID), most first."""
    return _read_earnings_rows(path, _BY_PIPELINE, rows_max)


def _read_earnings_rows(path: Path, query: str, rows_max: int) -> list[EarningsRow]:
    return [
        EarningsRow(of=of, leases=leases, paid_leases=paid, earned_microcredits=earned)
        for of, leases, paid, earned in read_rows(path, query, (rows_max,))
    ]
