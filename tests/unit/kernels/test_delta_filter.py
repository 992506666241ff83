"""delta_filter against NumPy, and over a series of readings."""

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
Array = npt.NDArray[np.generic]

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=6)
dtypes = st.sampled_from([np.dtype(np.uint8), np.dtype(np.float32)])


@given(
    data=st.data(),
    dtype=dtypes,
    shape=shapes,
    measure=st.sampled_from(["mean", "share"]),
    change=st.sampled_from([0, 0.125, 0.5]),
)
def test_it_passes_what_numpy_finds_changed(
    run_builtin: RunBuiltin,
    data: st.DataObject,
    dtype: np.dtype,
    shape: tuple[int, ...],
    measure: str,
    change: float,
) -> None:
    elements = st.integers(0, 255) if dtype == np.uint8 else st.integers(-16, 16).map(lambda i: i / 16)
    x, last = (data.draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))
    result = run_builtin(
        "delta_filter", {"x": x, "last": last}, measure=measure, change=str(change), level="0.25"
    )
    differences = np.abs(x.astype("f8") - last.astype("f8")) / (255 if dtype == np.uint8 else 1)
    expected = (differences > 0.25).mean() if measure == "share" else differences.mean()
    np.testing.assert_allclose(result["change"], [expected], rtol=1e-6)
    if abs(expected - change) > 1e-12:  # at the edge, the order of additions decides
        assert result["pass"].tolist() == [expected > change]
    assert np.array_equal(result["last"], x if result["pass"][0] else last)


def test_a_slow_drift_is_measured_against_what_was_passed_on(run_builtin: RunBuiltin) -> None:
    last: Array = np.zeros(0, "f4")
    passed = []
    for reading in np.arange(20, dtype="f4") / 8:
        result = run_builtin("delta_filter", {"x": np.array([reading], "f4"), "last": last}, change="0.5")
        last = result["last"]
        if result["pass"][0]:
            passed.append(float(reading))
    assert passed == [0, 0.5, 1, 1.5, 2]


@pytest.mark.parametrize(("age", "due", "passes"), [(9.5, "10", 0), (10, "10", 1), (99, "0", 0)])
def test_an_old_reading_is_due(run_builtin: RunBuiltin, age: float, due: str, passes: int) -> None:
    same = np.ones(3, "f4")
    result = run_builtin("delta_filter", {"x": same, "last": same, "age": np.array([age], "f4")}, due=due)
    assert result["pass"].tolist() == [passes]


ONE, NONE = np.zeros(1, "f4"), np.zeros(0, "f4")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"x": ONE}, {}, "'last' is missing"),
        ({"x": ONE.astype("f8"), "last": ONE}, {}, "'x' is F64"),
        ({"x": ONE, "last": ONE.astype("u1")}, {}, "'last' is U8; it must be F32"),
        ({"x": NONE, "last": ONE}, {}, "no elements"),
        ({"x": ONE, "last": np.zeros(2, "f4")}, {}, "same shape"),
        ({"x": ONE, "last": np.zeros((1, 1), "f4")}, {}, "same shape"),
        ({"x": ONE * np.float32("nan"), "last": ONE}, {}, "finite"),
        ({"x": ONE * np.float32("nan"), "last": NONE}, {}, "finite"),
        ({"x": ONE, "last": ONE, "age": NONE}, {}, "'age' has 0 numbers"),
        ({"x": ONE, "last": ONE, "age": ONE + np.float32("inf")}, {}, "'age' is not finite"),
        ({"x": ONE, "last": ONE}, {"scale": "0"}, "cannot be 0"),
        ({"x": ONE, "last": ONE}, {"change": "-1"}, "from 0 to"),
        ({"x": ONE, "last": ONE}, {"measure": "max"}, "one of: mean, share"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, tensors: dict[str, Array], metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("delta_filter", tensors, **metadata)
