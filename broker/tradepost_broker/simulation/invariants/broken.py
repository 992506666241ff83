"""A broken invariant: what was found, and when."""

from __future__ import annotations


class SimulationFailure(AssertionError):
    """The market did something that it must never do."""


def require(holds: bool, what: str) -> None:
    """Raise `SimulationFailure` unless `holds`."""
    if not holds:
        raise SimulationFailure(what)
