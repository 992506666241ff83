"""A replay for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tradepost.money import format_credits
from tradepost.plurals import counted
from tradepost_broker.simulation.replay.comparison import Comparison, Replay


def replay_tables(replayed: Replay, compared: Comparison | None) -> Sequence[Table]:
    """The figures of a journal, and, under another policy, what would differ and who would have won."""
    columns = {"recorded": replayed.recorded}
    if compared is not None:
        columns |= {"same policy, estimated": compared.same, "other policy, estimated": compared.other}
    figures = Table(box=SIMPLE_HEAD, pad_edge=False)
    figures.add_column("figure")
    for name in columns:
        figures.add_column(name, justify="right")
    for field in msgspec.structs.fields(type(replayed.recorded)):
        values = [getattr(column, field.name) for column in columns.values()]
        if field.name.endswith("_microcredits"):
            name = field.name.removesuffix("_microcredits") + ", credits"
            figures.add_row(name, *(format_credits(value) for value in values))
        else:
            figures.add_row(field.name.replace("_", " "), *(f"{value:,}" for value in values))
    if compared is None:
        return [figures]
    title = f"Auctions won; {counted(compared.winners_changed, 'job has', 'jobs have')} another winner"
    wins = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    wins.add_column("worker")
    wins.add_column("owner")
    wins.add_column("same policy", justify="right")
    wins.add_column("other policy", justify="right")
    for one in compared.wins:
        wins.add_row(one.worker[:16], one.owner, str(one.then), str(one.otherwise))
    return [figures, wins]
