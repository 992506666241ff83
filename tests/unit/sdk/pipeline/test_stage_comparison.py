"""Two runs of one pipeline, compared stage by stage by the hashes that their receipts commit to."""

from __future__ import annotations

import pytest

from tradepost.pipeline.agreement import Agreement
from tradepost.pipeline.manifest import KernelStage, Manifest, ModelStage, TensorSpec, Tolerance
from tradepost.pipeline.stage_comparison import (
    StageMatch,
    StageVerdict,
    compare_stages,
    output_tolerances,
    stage_at_fault,
)

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
TIGHT, LOOSE = Tolerance(atol=1e-5, rtol=0), Tolerance(atol=1e-3, rtol=0)


def kernel(name: str, *sources: str) -> KernelStage:
    return KernelStage(name=name, artifact=CID, inputs=_inputs(sources), outputs=("x",))


def model(name: str, *sources: str, tolerance: Tolerance = TIGHT) -> ModelStage:
    return ModelStage(name=name, artifact=CID, inputs=_inputs(sources), outputs=("x",), tolerance=tolerance)


def _inputs(sources: tuple[str, ...]) -> dict[str, str]:
    return {f"in{number}": f"{source}.x" for number, source in enumerate(sources)}


def pipeline(*stages: KernelStage | ModelStage, outputs: tuple[str, ...] = ()) -> Manifest:
    return Manifest(
        name="p",
        version="1",
        inputs={"x": TensorSpec(dtype="F32", shape=(None,))},
        stages=stages,
        outputs={f"from-{source}": f"{source}.x" for source in outputs or (stages[-1].name,)},
    )


NEEDS = "needs-reveal"
LINE = pipeline(kernel("decode", "input"), model("infer", "decode"), kernel("pick", "infer"))
#: Two ways from the input, which meet at the end.
FORK = pipeline(
    model("see", "input", tolerance=LOOSE),
    kernel("count", "input"),
    model("judge", "see", "count"),
    kernel("sum", "count"),
    outputs=("input", "see", "count", "judge", "sum"),
)


def hashes(text: str) -> list[tuple[str, str]]:
    """`decode=1 infer=2` as a receipt has it."""
    return [(name, value) for name, _, value in (one.partition("=") for one in text.split())]


@pytest.mark.parametrize(
    ("manifest", "run", "other", "verdict", "stage", "kind"),
    [
        (LINE, "decode=1 infer=2 pick=3", "decode=1 infer=2 pick=3", "equal", "", ""),
        (LINE, "decode=1 infer=2 pick=3", "decode=9 infer=8 pick=7", "proof", "decode", "kernel"),
        (LINE, "decode=1 infer=2 pick=3", "decode=1 infer=2 pick=9", "proof", "pick", "kernel"),
        (LINE, "decode=1 infer=2 pick=3", "decode=1 infer=9 pick=3", NEEDS, "infer", "model"),
        (LINE, "decode=1 infer=2 pick=3", "decode=1 infer=9 pick=8", NEEDS, "infer", "model"),
        # Everything after is as before: the dearest part of a run was not made, or it lies about the first.
        (LINE, "decode=1 infer=2 pick=3", "decode=9 infer=2 pick=3", "proof", "decode", "kernel"),
        # One of the two stopped early.
        (LINE, "decode=1 infer=2 pick=3", "decode=1", "equal", "", ""),
        (LINE, "decode=1 infer=2 pick=3", "decode=9", "proof", "decode", "kernel"),
        (LINE, "", "", "equal", "", ""),
        # The model before it does not feed the kernel, so it is no excuse.
        (FORK, "see=1 count=2 judge=3 sum=4", "see=9 count=8 judge=7 sum=6", "proof", "count", "kernel"),
        (FORK, "see=1 count=2 judge=3 sum=4", "see=9 count=2 judge=7 sum=6", "proof", "sum", "kernel"),
        (FORK, "see=1 count=2 judge=3 sum=4", "see=9 count=2 judge=7 sum=4", NEEDS, "see", "model"),
        (FORK, "see=1 count=2 judge=3 sum=4", "see=1 count=2 judge=9 sum=4", NEEDS, "judge", "model"),
    ],
)  # fmt: skip
def test_verdicts(manifest: Manifest, run: str, other: str, verdict: str, stage: str, kind: str) -> None:
    for ours, theirs in ((run, other), (other, run)):
        found = compare_stages(manifest, hashes(ours), hashes(theirs))
        assert (found.verdict, found.stage, found.kind) == (StageVerdict(verdict), stage, kind)


def test_what_follows_a_difference_is_not_judged() -> None:
    found = compare_stages(FORK, hashes("see=1 count=2 judge=3"), hashes("see=9 count=2 judge=8 sum=1"))
    assert dict(found.matches) == {
        "see": StageMatch.DIFFERS,
        "count": StageMatch.EQUAL,
        "judge": StageMatch.FOLLOWS,
        "sum": StageMatch.ABSENT,
    }


@pytest.mark.parametrize(
    ("other", "judge"),
    [
        ("see=1 count=2 judge=3 sum=4", None),
        ("see=1 count=2 judge=9 sum=4", TIGHT),  # only the tolerance of the stage that differs
        ("see=9 count=2 judge=9 sum=4", LOOSE),
        ("see=9 count=2 judge=3 sum=4", None),  # it came out equal again
    ],
)
def test_only_models_that_differ_make_room_for_what_comes_out_of_them(
    other: str, judge: Tolerance | None
) -> None:
    compared = compare_stages(FORK, hashes("see=1 count=2 judge=3 sum=4"), hashes(other))
    found = output_tolerances(FORK, compared)
    assert found == {
        "from-input": None,
        "from-see": LOOSE if "see=9" in other else None,
        "from-count": None,
        "from-judge": judge,
        "from-sum": None,
    }


@pytest.mark.parametrize(
    ("other", "tensor", "at_fault"),
    [
        ("see=1 count=2 judge=9 sum=4", "from-judge", ("judge", False)),
        ("see=9 count=2 judge=9 sum=4", "from-judge", ("see", False)),
        ("see=9 count=2 judge=9 sum=5", "from-judge", ("sum", True)),
        # It returned another output than its receipt commits to.
        ("see=9 count=2 judge=9 sum=4", "from-count", ("count", True)),
        ("see=1 count=2 judge=3 sum=4", "from-judge", ("judge", True)),
        ("see=1 count=2 judge=3 sum=4", "from-input", ("sum", True)),
        ("see=1 count=2 judge=3 sum=4", "", ("sum", True)),  # other metadata
        ("see=1 count=2 judge=9 sum=4", "", ("judge", False)),
    ],
)
def test_the_stage_at_fault(other: str, tensor: str, at_fault: tuple[str, bool]) -> None:
    compared = compare_stages(FORK, hashes("see=1 count=2 judge=3 sum=4"), hashes(other))
    assert stage_at_fault(FORK, compared, Agreement(False, "differs", tensor=tensor)) == at_fault
