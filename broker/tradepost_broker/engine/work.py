"""The simplest kinds of work: one event, some records of the shell, or some deletions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tradepost_broker.engine.core_recovery import CoreRecovery
from tradepost_broker.engine.decisions import Decision, Moment
from tradepost_broker.market.model.events import Event
from tradepost_broker.storage.shell_records import ShellRecord
from tradepost_broker.storage.store import Deletion


class EventWork:
    """Work that is one event, made by `make` when its turn comes, with records to keep beside it."""

    def __init__(self, make: Callable[[Moment], Event], *records: ShellRecord) -> None:
        self._make = make
        self._records = records

    def decide(self, moment: Moment) -> Decision:
        """The event and the records."""
        return Decision(event=self._make(moment), records=self._records)


class Keep:
    """Work that writes records of the shell, without an event."""

    def __init__(self, *records: ShellRecord) -> None:
        self._records = records

    def decide(self, moment: Moment) -> Decision:
        """The records."""
        return Decision(records=self._records)


class Delete:
    """Work that deletes rows, without an event."""

    def __init__(self, deletions: Sequence[Deletion]) -> None:
        self._deletions = deletions

    def decide(self, moment: Moment) -> Decision:
        """The deletions."""
        return Decision(deletions=self._deletions)


class SetAsideDelivery:
    """Work that ends a lease whose delivery cannot be processed."""

    def __init__(self, recovery: CoreRecovery, lease: str, cause: Exception) -> None:
        self._recovery = recovery
        self._lease = lease
        self._cause = cause

    def decide(self, moment: Moment) -> Decision:
        """The lease's end, and the record of why."""
        event, record = self._recovery.set_aside_delivery(self._lease, self._cause, at=moment.at)
        return Decision(event=event, records=(record,))
