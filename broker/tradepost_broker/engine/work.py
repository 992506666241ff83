"""The plainest kinds of work: one event, or some records of the shell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tradepost_broker.engine.engine import Moment
from tradepost_broker.market.model.events import Event, Instruction
from tradepost_broker.storage.shell_records import ShellRecord


class EventWork:
    """Work that is one event, made by `make` when its turn comes, with records to keep beside it."""

    def __init__(self, make: Callable[[Moment], Event], *records: ShellRecord) -> None:
        self._make = make
        self._records = records

    def event(self, moment: Moment) -> Event:
        """The event."""
        return self._make(moment)

    def records(self, moment: Moment, instructions: Sequence[Instruction]) -> Sequence[ShellRecord]:
        """The records."""
        return self._records


class Keep:
    """Work that writes records of the shell, without an event."""

    def __init__(self, *records: ShellRecord) -> None:
        self._records = records

    def event(self, moment: Moment) -> Event | None:
        """Nothing for the market to decide."""
        return None

    def records(self, moment: Moment, instructions: Sequence[Instruction]) -> Sequence[ShellRecord]:
        """The records."""
        return self._records


class Drop:
    """Work that deletes uploads."""

    def __init__(self, uploads: Sequence[str]) -> None:
        self._uploads = uploads

    def event(self, moment: Moment) -> Event | None:
        """Nothing for the market to decide."""
        for upload in self._uploads:
            moment.transaction.execute("DELETE FROM uploads WHERE id = ?", (upload,))
        return None

    def records(self, moment: Moment, instructions: Sequence[Instruction]) -> Sequence[ShellRecord]:
        """Nothing new."""
        return ()
