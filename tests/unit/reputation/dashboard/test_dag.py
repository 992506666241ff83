"""The picture of a pipeline: each stage is below its sources, and every flow has an arrow."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from tradepost_reputation.dashboard import StageView
from tradepost_reputation.dashboard.dag import HEIGHT_PX, WIDTH_PX, draw


def stage(name: str, *sources: str) -> StageView:
    return StageView(
        name=name, kind="kernel", artifact="c", sources=sources, providers=(), tolerance="", memory_bytes=1
    )


def test_a_chain_goes_straight_down() -> None:
    picture = draw([stage("scale", "input"), stage("double", "scale")], ["double"])
    assert [(node.name, node.x) for node in picture.nodes] == [
        ("input", 0.0),
        ("scale", 0.0),
        ("double", 0.0),
        ("output", 0.0),
    ]
    assert [node.y for node in picture.nodes] == sorted(node.y for node in picture.nodes)
    assert len(picture.arrows) == 3
    assert picture.title == "scale takes input; double takes scale; output takes double"


def test_branches_are_side_by_side_and_the_output_below_all() -> None:
    stages = [stage("a", "input"), stage("b", "input"), stage("both", "a", "b"), stage("late", "both")]
    picture = draw(stages, ["a"])
    places = {node.name: node for node in picture.nodes}
    assert places["a"].y == places["b"].y
    assert places["output"].y == max(node.y for node in picture.nodes)
    assert [node.name for node in picture.nodes if node.y == places["output"].y] == ["output"]


def test_a_long_name_is_cut() -> None:
    [_, node, _] = draw([stage("x" * 64, "input")], ["x" * 64]).nodes
    assert len(node.label) == 18


@st.composite
def pipelines(draw_from: st.DrawFn) -> tuple[list[StageView], list[str]]:
    names = [f"s{number}" for number in range(draw_from(st.integers(1, 12)))]
    stages = [
        stage(name, *draw_from(st.lists(st.sampled_from(["input", *names[:place]]), min_size=1, max_size=4)))
        for place, name in enumerate(names)
    ]
    return stages, draw_from(st.lists(st.sampled_from(["input", *names]), min_size=1, max_size=3))


@given(pipelines())
def test_nothing_overlaps_and_every_source_is_above(pipeline: tuple[list[StageView], list[str]]) -> None:
    stages, outputs = pipeline
    picture = draw(stages, outputs)
    places = {node.name: node for node in picture.nodes}
    assert len(places) == len(stages) + 2
    for one in stages:
        assert all(places[source].y < places[one.name].y for source in one.sources)
    assert len(picture.arrows) == sum(len(set(one.sources)) for one in stages) + len(set(outputs))
    for node in picture.nodes:
        assert 0 <= node.x <= picture.width - WIDTH_PX
        assert 0 <= node.y <= picture.height - HEIGHT_PX
    for one, other in combinations(picture.nodes, 2):
        assert abs(one.x - other.x) >= WIDTH_PX or abs(one.y - other.y) >= HEIGHT_PX
