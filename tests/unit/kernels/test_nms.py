"""nms against a greedy loop in NumPy, bit for bit, and against onnxruntime's NonMaxSuppression."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]
Floats = npt.NDArray[np.float32]

seeds = st.integers(0, 2**32 - 1)
thresholds = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])


def drawn(seed: int, count: int, classes: int) -> tuple[Floats, Floats]:
    """Boxes with whole corners that often overlap, and scores with ties."""
    random = np.random.default_rng(seed)
    corners = random.integers(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + random.integers(0, 12, (count, 2))], axis=1)
    return boxes.astype("f4"), (random.integers(0, 50, (count, classes)) / 50).astype("f4")


def covers(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], iou: float) -> bool:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return False
    area = sum(max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (a, b))
    return bool(across * down > iou * (area - across * down))


def greedy(
    boxes: Floats, scores: Floats, *, iou: float, score_min: float, keep: int, pick: str, across: str
) -> list[tuple[int, int]]:
    """The kept (row, class), best first."""
    rows, classes = scores.shape
    every = [
        (row, c) for row in range(rows) for c in range(classes) if pick == "all" or c == scores[row].argmax()
    ]
    ranked = sorted(
        (pair for pair in every if scores[pair] >= score_min), key=lambda pair: (-scores[pair], pair)
    )
    kept: list[tuple[int, int]] = []
    wide = boxes.astype("f8")
    for row, c in ranked:
        rivals = [k for k, other in kept if across == "all" or other == c]
        if len(kept) < keep and not any(covers(wide[k], wide[row], iou) for k in rivals):
            kept.append((row, c))
    return kept


@given(
    seed=seeds,
    count=st.integers(0, 25),
    classes=st.integers(1, 4),
    iou=thresholds,
    score_min=thresholds,
    keep=st.integers(1, 30),
    pick=st.sampled_from(["best", "all"]),
    across=st.sampled_from(["class", "all"]),
)
def test_it_equals_a_greedy_loop(
    run_builtin: RunBuiltin,
    seed: int,
    count: int,
    classes: int,
    iou: float,
    score_min: float,
    keep: int,
    pick: str,
    across: str,
) -> None:
    boxes, scores = drawn(seed, count, classes)
    result = run_builtin(
        "nms",
        {"boxes": boxes, "scores": scores},
        iou=str(iou),
        score_min=str(score_min),
        keep=str(keep),
        pick=pick,
        across=across,
    )
    kept = greedy(boxes, scores, iou=iou, score_min=score_min, keep=keep, pick=pick, across=across)
    assert list(zip(result["index"].tolist(), result["class"].tolist(), strict=True)) == kept
    rows = [row for row, _ in kept]
    assert np.array_equal(result["boxes"], boxes[rows].reshape(-1, 4))
    assert result["score"].tolist() == [scores[pair] for pair in kept]


@cache
def onnx_session() -> onnxruntime.InferenceSession:
    """A graph of one NonMaxSuppression."""
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, None, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, None, None]),
        helper.make_tensor_value_info("keep", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("iou", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("score_min", TensorProto.FLOAT, [1]),
    ]
    output = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    node = helper.make_node("NonMaxSuppression", [item.name for item in inputs], ["kept"])
    graph = helper.make_graph([node], "nms", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@given(seed=seeds, count=st.integers(1, 40), classes=st.integers(1, 3))
def test_it_keeps_what_onnxruntime_keeps(
    run_builtin: RunBuiltin, seed: int, count: int, classes: int
) -> None:
    random = np.random.default_rng(seed)
    corners = random.random((count, 2)) * 10
    boxes = np.concatenate([corners, corners + 0.1 + random.random((count, 2)) * 8], axis=1).astype("f4")
    scores = random.random((count, classes)).astype("f4")
    (kept,) = onnx_session().run(
        None,
        {
            "boxes": boxes[np.newaxis],
            "scores": scores.T[np.newaxis],
            "keep": np.array([1000]),
            "iou": np.array([0.45], "f4"),
            "score_min": np.array([0.2], "f4"),
        },
    )
    result = run_builtin(
        "nms", {"boxes": boxes, "scores": scores}, iou="0.45", score_min="0.2", pick="all", keep="1000"
    )
    ours = set(zip(result["class"].tolist(), result["index"].tolist(), strict=True))
    assert ours == {(c, row) for _, c, row in kept.tolist()}


@given(seed=seeds, count=st.integers(0, 20))
def test_formats_describe_the_same_boxes(run_builtin: RunBuiltin, seed: int, count: int) -> None:
    boxes, scores = drawn(seed, count, 2)
    size = boxes[:, 2:] - boxes[:, :2]
    formats = {
        "xyxy": boxes,
        "xywh": np.concatenate([boxes[:, :2], size], axis=1),
        "cxcywh": np.concatenate([boxes[:, :2] + size / 2, size], axis=1),
    }
    first, *others = (
        run_builtin("nms", {"boxes": form, "scores": scores}, format=name) for name, form in formats.items()
    )
    assert all(other == first for other in others)


def test_one_image_may_have_a_leading_axis_and_one_class_no_axis(run_builtin: RunBuiltin) -> None:
    boxes, scores = drawn(1, 10, 3)
    assert run_builtin("nms", {"boxes": boxes[np.newaxis], "scores": scores[np.newaxis]}) == run_builtin(
        "nms", {"boxes": boxes, "scores": scores}
    )
    flat = run_builtin("nms", {"boxes": boxes, "scores": np.ascontiguousarray(scores[:, 0])})
    assert flat == run_builtin("nms", {"boxes": boxes, "scores": np.ascontiguousarray(scores[:, :1])})


def test_boxes_are_moved_back_into_the_picture_that_was_resized(run_builtin: RunBuiltin) -> None:
    image = np.zeros((100, 200, 3), "u1")
    resized = run_builtin("resize", {"image": image}, size="64,64", fit="letterbox")
    assert resized["placed"].tolist() == [16, 0, 32, 64, 100, 200]
    boxes = np.array([[0, 16, 32, 48], [-5, 0, 80, 64]], "f4")
    result = run_builtin(
        "nms", {"boxes": boxes, "scores": np.array([0.9, 0.8], "f4"), "placed": resized["placed"]}
    )
    assert result["boxes"].tolist() == [[0, 0, 100, 100], [0, 0, 200, 100]]


def test_no_box_is_no_error(run_builtin: RunBuiltin) -> None:
    result = run_builtin("nms", {"boxes": np.zeros((0, 4), "f4"), "scores": np.zeros((0, 3), "f4")})
    assert {name: tensor.shape for name, tensor in result.tensors.items()} == {
        "boxes": (0, 4),
        "class": (0,),
        "index": (0,),
        "score": (0,),
    }


def test_only_the_best_candidates_are_compared(run_builtin: RunBuiltin) -> None:
    boxes = np.array([[10 * i, 0, 10 * i + 5, 5] for i in range(6)], "f4")
    scores = np.array([0.5, 0.9, 0.6, 0.8, 0.7, 0.4], "f4")
    result = run_builtin("nms", {"boxes": boxes, "scores": scores}, candidates="3")
    assert result["index"].tolist() == [1, 3, 4]


BOXES, SCORES = np.zeros((2, 4), "f4"), np.zeros((2, 3), "f4")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"boxes": BOXES}, {}, "'scores' is missing"),
        ({"boxes": BOXES.astype("f8"), "scores": SCORES}, {}, "'boxes' is F64"),
        ({"boxes": BOXES[:1], "scores": SCORES}, {}, "1 boxes and 2 rows"),
        ({"boxes": np.zeros((2, 5), "f4"), "scores": SCORES}, {}, "rows of 5 numbers"),
        ({"boxes": np.zeros((2, 1, 4), "f4"), "scores": SCORES}, {}, "'boxes' has rank 3"),
        ({"boxes": np.zeros(4, "f4"), "scores": SCORES}, {}, "'boxes' has rank 1"),
        ({"boxes": BOXES, "scores": np.zeros((2, 0), "f4")}, {}, "without scores"),
        (
            {"boxes": BOXES + np.float32("nan"), "scores": SCORES},
            {},
            "'boxes' has a value that is not finite",
        ),
        (
            {"boxes": BOXES, "scores": SCORES + np.float32("inf")},
            {},
            "'scores' has a value that is not finite",
        ),
        ({"boxes": BOXES, "scores": SCORES, "placed": np.zeros(6, "i4")}, {}, "'placed' must be"),
        ({"boxes": BOXES, "scores": SCORES, "placed": np.ones(5, "i4")}, {}, "'placed' must be"),
        ({"boxes": BOXES, "scores": SCORES, "placed": np.ones(6, "i8")}, {}, "'placed' is I64"),
        ({"boxes": BOXES, "scores": SCORES}, {"iou": "1.5"}, "'iou' must be a number from 0 to 1"),
        ({"boxes": BOXES, "scores": SCORES}, {"iou": "half"}, "'half'; it must be a number"),
        ({"boxes": BOXES, "scores": SCORES}, {"keep": "0"}, "from 1 to 65536"),
        ({"boxes": BOXES, "scores": SCORES}, {"candidates": "65537"}, "from 1 to 65536"),
        ({"boxes": BOXES, "scores": SCORES}, {"format": "yxyx"}, "one of: xyxy, xywh, cxcywh"),
        ({"boxes": BOXES, "scores": SCORES}, {"pick": "two"}, "one of: best, all"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, tensors: dict[str, Floats], metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("nms", tensors, **metadata)
