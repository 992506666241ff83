"""The geometry of charts. Templates draw it as SVG, and write the labels as text of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tradepost_reputation.dashboard.views import ScorePointView

#: The coordinates of a chart's plane, which the page stretches to the room that there is.
WIDTH: Final = 1000.0
HEIGHT: Final = 100.0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What the edges of a plane stand for."""

    low: float
    high: float

    def place(self, value: float, length: float) -> float:
        """How far along an edge of this length `value` is, within the edge."""
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return min(1.0, max(0.0, share)) * length


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a chart, with its upper left corner."""

    x: float
    y: float
    width: float
    height: float


class ScoreChart(NamedTuple):
    """The paths of a score over time: the score, what is exceeded with 5%, and the area between them."""

    line: str
    edge: str
    area: str


def score_chart(points: Sequence[ScorePointView]) -> ScoreChart:
    """The chart of a score's history, oldest first, on a plane from 0 to 1."""
    x = Axis(low=points[0].at, high=points[-1].at)
    y = Axis(low=0.0, high=1.0)
    return ScoreChart(
        line=step_line([(one.at, one.score) for one in points], x, y),
        edge=step_line([(one.at, one.high) for one in points], x, y),
        area=band([(one.at, one.score, one.high) for one in points], x, y),
    )


def step_line(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """The path of values that each hold until the next: (x, y) in order."""
    if not points:
        return ""
    parts = [f"M{_x(points[0][0], x)} {_y(points[0][1], y)}"]
    for at, value in points[1:]:
        parts.append(f"H{_x(at, x)}V{_y(value, y)}")
    return "".join(parts)


def band(points: Sequence[tuple[float, float, float]], x: Axis, y: Axis) -> str:
    """The path of the area between two values that each hold until the next: (x, low, high) in order."""
    if not points:
        return ""
    edge = step_line([(at, high) for at, _, high in points], x, y)
    back = [f"V{_y(points[-1][1], y)}"]
    for (at, _, _), (_, low, _) in zip(reversed(points[1:]), reversed(points[:-1]), strict=True):
        back.append(f"H{_x(at, x)}V{_y(low, y)}")
    return f"{edge}{''.join(back)}H{_x(points[0][0], x)}Z"


def bars(values: Sequence[float]) -> list[Bar]:
    """Bars side by side for `values`, the highest of which is as high as the plane."""
    high = max(values, default=0)
    width = WIDTH / max(1, len(values))
    scale = HEIGHT / high if high > 0 else 0.0
    return [
        Bar(
            x=round(index * width + width * 0.1, 2),
            y=round(HEIGHT - value * scale, 2),
            width=round(width * 0.8, 2),
            height=round(value * scale, 2),
        )
        for index, value in enumerate(values)
    ]


def _x(value: float, axis: Axis) -> float:
    return round(axis.place(value, WIDTH), 2)


def _y(value: float, axis: Axis) -> float:
    return round(HEIGHT - axis.place(value, HEIGHT), 2)
