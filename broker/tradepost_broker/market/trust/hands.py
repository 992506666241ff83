"""Which names are under one hand, as far as the broker can know.

A name is an account or a worker's owner: the operator gives out both, and one name is one person. Two names
are also taken for one hand if both claim a common mark, such as a key that they have signed pipelines with.

The relation is not transitive, on purpose. The broker cannot check who holds a key, so anybody may claim
another's. Then these two count as one hand, which costs the claimant the other's confirmations and gains it
nothing; but two others whose keys it claims are still two.
"""

from __future__ import annotations


class Hands:
    """The marks that names have claimed. Claims are never withdrawn."""

    def __init__(self) -> None:
        self._marks: dict[str, set[str]] = {}
        self._names: dict[str, set[str]] = {}

    def claim(self, name: str, mark: str) -> None:
        """Note that a name claims a mark."""
        self._marks.setdefault(name, set()).add(mark)
        self._names.setdefault(mark, set()).add(name)

    def are_one(self, name: str, other: str) -> bool:
        """Whether both names are under one hand. A name is one with itself; "" is nobody's."""
        if not name or not other:
            return False
        if name == other:
            return True
        return not self._marks.get(name, set()).isdisjoint(self._marks.get(other, ()))

    def of(self, name: str) -> set[str]:
        """All names that are under one hand with this one, itself included."""
        marks = self._marks.get(name, ())
        return {name}.union(*(self._names[mark] for mark in marks))
