"""pool_normalize against NumPy: bit for bit, since both add in the same order."""

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
Floats = npt.NDArray[np.float32]

shapes = st.tuples(st.integers(0, 4), st.integers(1, 6), st.integers(1, 9))
values = st.floats(-(2.0**20), 2.0**20, width=32)


def in_order(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The sum over the first axis, from first to last; NumPy's own `sum` adds in pairs."""
    total = np.zeros(terms.shape[1:])
    for term in terms:
        total = total + term
    return total


def pooled(hidden: Floats, mask: npt.NDArray[np.integer], pool: str) -> npt.NDArray[np.float64]:
    result = np.zeros((hidden.shape[0], hidden.shape[2]))
    for row, tokens, counts in zip(result, hidden.astype("f8"), mask != 0, strict=True):
        if pool == "cls":
            row[:] = tokens[0]
        elif counts.any():
            row[:] = tokens[counts].max(axis=0) if pool == "max" else in_order(tokens[counts]) / counts.sum()
    return result


@given(
    data=st.data(),
    shape=shapes,
    pool=st.sampled_from(["mean", "max", "cls"]),
    normalize=st.sampled_from(["l2", "none"]),
    mask_dtype=st.sampled_from([np.int32, np.int64]),
)
def test_it_equals_numpy_bit_for_bit(
    run_builtin: RunBuiltin,
    data: st.DataObject,
    shape: tuple[int, int, int],
    pool: str,
    normalize: str,
    mask_dtype: type[np.integer],
) -> None:
    hidden = data.draw(hnp.arrays(np.float32, shape, elements=values))
    mask = data.draw(hnp.arrays(mask_dtype, shape[:2], elements=st.sampled_from([0, 1, -1])))
    result = run_builtin("pool_normalize", {"hidden": hidden, "mask": mask}, pool=pool, normalize=normalize)
    expected = pooled(hidden, mask, pool)
    if normalize == "l2":
        lengths = np.sqrt(in_order((expected * expected).T))[:, np.newaxis]
        expected = np.divide(expected, lengths, out=np.zeros_like(expected), where=lengths > 0)
    assert np.array_equal(result["embedding"], expected.astype("f4"))


def test_the_default_is_what_sentence_encoders_do(run_builtin: RunBuiltin) -> None:
    hidden = np.array([[[3, 0], [0, 4], [100, 100]]], "f4")
    result = run_builtin("pool_normalize", {"hidden": hidden, "mask": np.array([[1, 1, 0]])})
    assert result["embedding"].tolist() == [[np.float32(0.6), np.float32(0.8)]]


def test_cls_needs_no_mask(run_builtin: RunBuiltin) -> None:
    hidden = np.array([[[0, 2], [7, 7]]], "f4")
    assert run_builtin("pool_normalize", {"hidden": hidden}, pool="cls")["embedding"].tolist() == [[0, 1]]


HIDDEN = np.zeros((1, 2, 3), "f4")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {}, "'hidden' is missing"),
        ({"hidden": HIDDEN.astype("f8")}, {}, "'hidden' is F64"),
        ({"hidden": HIDDEN[0]}, {}, "rank 2"),
        ({"hidden": np.zeros((1, 0, 3), "f4")}, {}, "without tokens"),
        ({"hidden": HIDDEN}, {}, "'mask' is missing"),
        ({"hidden": HIDDEN, "mask": np.zeros((1, 2), "f4")}, {}, "'mask' is F32"),
        ({"hidden": HIDDEN, "mask": np.zeros((2, 1), "i8")}, {}, r"'mask' must be \[1, 2\]"),
        ({"hidden": HIDDEN, "mask": np.zeros(2, "i8")}, {}, r"'mask' must be \[1, 2\]"),
        ({"hidden": HIDDEN * np.float32("nan"), "mask": np.ones((1, 2), "i8")}, {}, "not finite"),
        ({"hidden": HIDDEN}, {"pool": "last"}, "one of: mean, max, cls"),
        ({"hidden": HIDDEN}, {"normalize": "l1"}, "one of: l2, none"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, tensors: dict[str, Floats], metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("pool_normalize", tensors, **metadata)
