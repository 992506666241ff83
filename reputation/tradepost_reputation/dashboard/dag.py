"""The picture of a pipeline: its stages in rows, each below those whose outputs it takes.

The geometry is computed here, in pixels, and drawn by a template.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tradepost_reputation.dashboard.formats import cut
from tradepost_reputation.dashboard.views import StageView

WIDTH_PX: Final = 168
HEIGHT_PX: Final = 48
_GAP_X_PX: Final = 24
_GAP_Y_PX: Final = 36
#: What fits into a node's width.
_NAME_CHARS_MAX: Final = 18
#: How the pipeline's input and its output are named in references and in the picture.
INPUT: Final = "input"
OUTPUT: Final = "output"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A box with its upper left corner: a stage (`kernel`, `model`), the input or the output."""

    name: str
    label: str
    kind: str
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The boxes, the paths of the arrows between them, and the size of it all in pixels."""

    nodes: tuple[Node, ...]
    arrows: tuple[str, ...]
    width: float
    height: float
    title: str


def draw(stages: Sequence[StageView], outputs: Sequence[str]) -> Picture:
    """The picture of `stages`, in an order that runs. `outputs` are the stages that the output is made of."""
    sources = {stage.name: tuple(dict.fromkeys(stage.sources)) for stage in stages}
    kinds = {INPUT: INPUT} | {stage.name: stage.kind for stage in stages} | {OUTPUT: OUTPUT}
    sources[OUTPUT] = tuple(dict.fromkeys(outputs))
    rows = _rows(sources)
    by_row: defaultdict[int, list[str]] = defaultdict(list)
    for name, row in rows.items():
        by_row[row].append(name)
    widest = max(map(len, by_row.values()))
    width = widest * WIDTH_PX + (widest - 1) * _GAP_X_PX
    places: dict[str, tuple[float, float]] = {}
    for row, names in by_row.items():
        left = (width - len(names) * WIDTH_PX - (len(names) - 1) * _GAP_X_PX) / 2
        for column, name in enumerate(names):
            places[name] = (left + column * (WIDTH_PX + _GAP_X_PX), float(row * (HEIGHT_PX + _GAP_Y_PX)))
    return Picture(
        nodes=tuple(
            Node(name=name, label=cut(name, _NAME_CHARS_MAX), kind=kinds[name], x=x, y=y)
            for name, (x, y) in places.items()
        ),
        arrows=tuple(
            _arrow(places[source], places[name], skips=rows[name] - rows[source] > 1)
            for name, found in sources.items()
            for source in found
        ),
        width=width,
        height=float(max(by_row) * (HEIGHT_PX + _GAP_Y_PX) + HEIGHT_PX),
        title="; ".join(f"{name} takes {' and '.join(found)}" for name, found in sources.items()),
    )


def _rows(sources: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """The row of each box: one below the lowest of those that it takes something of."""
    rows = {INPUT: 0}
    for name, found in sources.items():
        rows[name] = 1 + max((rows[source] for source in found), default=0)
    rows[OUTPUT] = max(rows.values()) if rows[OUTPUT] == max(rows.values()) else 1 + max(rows.values())
    return rows


def _arrow(start: tuple[float, float], end: tuple[float, float], *, skips: bool) -> str:
    """From the lower edge of one box to the upper edge of another, around what lies between them."""
    x, y = start[0] + WIDTH_PX / 2, start[1] + HEIGHT_PX
    to_x, to_y = end[0] + WIDTH_PX / 2, end[1]
    aside = WIDTH_PX * 0.7 if skips else 0.0
    half = (to_y - y) / 2
    curve = f"M{x:g} {y:g}C{x + aside:g} {y + half:g} {to_x + aside:g} {to_y - half:g} {to_x:g} {to_y - 3:g}"
    return f"{curve}l-5 -7m5 7l5 -7"
