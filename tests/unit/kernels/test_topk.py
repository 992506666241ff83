"""topk against NumPy: order and ties exactly, probabilities to the last bit or one beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]
Scores = npt.NDArray[np.float32]

values = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0])
rows = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30), elements=values
)


def softmax(scores: Scores) -> npt.NDArray[np.float64]:
    powers = np.exp(scores.astype("f8") - scores.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


@given(scores=rows, data=st.data())
def test_order_equals_a_stable_sort(run_builtin: RunBuiltin, scores: Scores, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, scores.shape[1]))
    result = run_builtin("topk", {"scores": scores}, k=str(k), activation="none")
    index = np.argsort(-scores.astype("f8"), axis=1, kind="stable")[:, :k]
    assert result["index"].dtype == np.int32
    assert np.array_equal(result["index"], index)
    assert result["score"].tobytes() == np.take_along_axis(scores, index, axis=1).tobytes()
    assert result.metadata == {}


@given(scores=rows)
def test_probabilities_equal_numpy_s(run_builtin: RunBuiltin, scores: Scores) -> None:
    result = run_builtin("topk", {"scores": scores}, k=str(scores.shape[1]))
    expected = np.take_along_axis(softmax(scores), result["index"].astype(int), axis=1).astype("f4")
    np.testing.assert_array_max_ulp(result["score"], expected, maxulp=1)
    np.testing.assert_allclose(result["score"].sum(axis=1), 1, rtol=1e-5)


def test_large_and_small_scores_neither_overflow_nor_vanish(run_builtin: RunBuiltin) -> None:
    scores = np.array([[3e38, 3e38, -3e38], [-3e38, -3e38, -3e38]], "f4")
    result = run_builtin("topk", {"scores": scores}, k="3")
    assert result["score"].tolist() == [[0.5, 0.5, 0], [np.float32(1 / 3)] * 3]


def test_one_row_may_come_without_its_axis(run_builtin: RunBuiltin) -> None:
    scores = np.array([1, 3, 2], "f4")
    flat, row = (run_builtin("topk", {"scores": s}, k="2") for s in (scores, scores[np.newaxis]))
    assert flat == row
    assert flat["index"].tolist() == [[1, 2]]


def test_the_default_is_the_best_one(run_builtin: RunBuiltin) -> None:
    result = run_builtin("topk", {"scores": np.zeros((3, 4), "f4")})
    assert result["index"].tolist() == [[0], [0], [0]]
    assert result["score"].tolist() == [[0.25], [0.25], [0.25]]


def test_labels_follow_the_indices_row_by_row(run_builtin: RunBuiltin) -> None:
    scores = np.array([[0, 2, 1], [5, 4, 3]], "f4")
    result = run_builtin("topk", {"scores": scores}, k="2", labels='cat\n\n"dög"')
    assert result.metadata == {"labels": '\n"dög"\ncat\n'}
    none = run_builtin("topk", {"scores": np.zeros((0, 3), "f4")}, labels="a\nb\nc")
    assert none["index"].shape == (0, 1)
    assert none.metadata == {"labels": ""}


def test_infinite_scores(run_builtin: RunBuiltin) -> None:
    scores = np.array([[-np.inf, 0, np.inf]], "f4")
    ranked = run_builtin("topk", {"scores": scores}, k="3", activation="none")
    assert ranked["index"].tolist() == [[2, 1, 0]]
    assert run_builtin("topk", {"scores": scores[:, :2]}, k="2")["score"].tolist() == [[1, 0]]
    for hopeless in (scores, np.full((1, 2), -np.inf, "f4")):
        with pytest.raises(KernelError, match="infinite"):
            run_builtin("topk", {"scores": hopeless})


def test_many_scores_take_no_quadratic_time(run_builtin: RunBuiltin) -> None:
    scores = np.random.default_rng(0).standard_normal((1, 100_000)).astype("f4")
    result = run_builtin("topk", {"scores": scores}, k="100000", activation="none")
    assert np.array_equal(result["score"][0], np.sort(scores[0])[::-1])


@pytest.mark.parametrize(
    ("scores", "metadata", "message"),
    [
        (np.zeros(3, "f8"), {}, "'scores' is F64; it must be F32"),
        (np.zeros((1, 1, 1), "f4"), {}, "rank 3"),
        (np.zeros((), "f4"), {}, "rank 0"),
        (np.zeros((2, 0), "f4"), {}, "without scores"),
        (np.array([[0, 1], [np.nan, 0]], "f4"), {}, "NaN in row 1"),
        (np.zeros(3, "f4"), {"k": "4"}, "from 1 to 3"),
        (np.zeros(3, "f4"), {"k": "0"}, "from 1 to 3"),
        (np.zeros(3, "f4"), {"k": "1.5"}, "whole number"),
        (np.zeros(3, "f4"), {"k": "many"}, "'many'"),
        (np.zeros(3, "f4"), {"activation": "relu"}, "softmax or none"),
        (np.zeros(3, "f4"), {"labels": "a\nb"}, "2 names for 3 scores"),
        (np.zeros(3, "f4"), {"labels": "a\nb\nc\n"}, "4 names for 3 scores"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, scores: Scores, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("topk", {"scores": scores}, **metadata)
