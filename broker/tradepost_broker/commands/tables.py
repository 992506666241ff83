"""Tables for people, and times in them."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table


def show_table(table: Table) -> None:
    """Print a table as it is: names are workers' own, and Rich would take brackets in them for markup."""
    Console(markup=False, emoji=False).print(table)


def local_time(at: float) -> str:
    """A time in Unix seconds, in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
