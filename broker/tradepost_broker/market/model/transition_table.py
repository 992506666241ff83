"""The common part of the state tables of jobs, leases and workers.

A table holds every transition: which trigger moves a record from which state to which. A trigger that the
table does not hold for a state is a defect of the broker. `docs/states.md` shows the diagrams that are drawn
from the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from tradepost.errors import StateBroken

State = TypeVar("State", bound=StrEnum)
Trigger = TypeVar("Trigger", bound=StrEnum)


class TransitionTable(Generic[State, Trigger]):
    """The transitions of one kind of record, named `record` in errors; a new one has the state `initial`.

    `final` are the states in which a record has ended; without them, those that no trigger leaves.
    """

    def __init__(
        self,
        record: str,
        *,
        initial: State,
        transitions: Mapping[tuple[State, Trigger], State],
        final: Set[State] | None = None,
    ) -> None:
        self.transitions: Final = MappingProxyType(dict(transitions))
        left = {state for (state, _), target in transitions.items() if target is not state}
        #: The states in which a record has ended.
        self.final: Final = frozenset(type(initial)) - left if final is None else frozenset(final)
        self._record = record
        self._initial = initial

    def target(self, record_id: str, state: State, trigger: Trigger) -> State:
        """The state that `trigger` moves a record in `state` to.

        Raises `StateBroken`, which names the record, if the table holds no such transition.
        """
        target = self.transitions.get((state, trigger))
        if target is None:
            raise StateBroken(
                f"{self._record} {record_id} is {state.value}; {trigger.value!r} is not allowed in this state"
            )
        return target

    def mermaid(self) -> str:
        """The table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {self._initial.value}"]
        for (state, trigger), target in self.transitions.items():
            lines.append(f"    {state.value} --> {target.value}: {trigger.value}")
        lines += [f"    {state.value} --> [*]" for state in type(self._initial) if state in self.final]
        return "\n".join(lines) + "\n"
