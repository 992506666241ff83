"""How the fields of records and events are named on disk: without the unit of money.

Journals and rows were written before fields had `_microcredits` in their names, and a journal is never
rewritten: every event must decode for as long as its broker's database exists. A shorter name also saves
bytes in every row.
"""

from __future__ import annotations


def without_unit(field: str) -> str:
    """The stored name of a field; for the `rename` of a struct."""
    return field.removesuffix("_microcredits")
