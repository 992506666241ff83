"""What is checked again because a device was expelled: its held payments, and those of its owner's others.

It follows from the records, so a restart finds it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Examinations:
    """Leases that are to be looked at, by id; in order, so that journals replay.

    `to_reexamine` have held payments of expelled workers, which are to be refunded, or of examined ones.
    Their results are to be doubted. `expelled_owners` are those of whom a device was expelled. `pending` are
    the leases of their other devices, by worker, that are not decided. Something has become known of those in
    `changed`, which names their workers.
    """

    to_reexamine: dict[str, None] = field(default_factory=dict)
    expelled_owners: dict[str, None] = field(default_factory=dict)
    pending: dict[str, set[str]] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)

    @property
    def are_due(self) -> bool:
        """Whether there is something to do at once."""
        return bool(self.to_reexamine or self.changed)
