"""sample_stats against NumPy."""

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

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=8)
sixteenths = st.integers(-48, 48).map(lambda number: number / 16)  # the bins' edges are among them
tensors = hnp.arrays(np.uint8, shapes) | hnp.arrays(np.float32, shapes, elements=sixteenths)


@given(x=tensors, bins=st.sampled_from([1, 2, 4, 16, 64]))
def test_it_equals_numpy(run_builtin: RunBuiltin, x: npt.NDArray[np.generic], bins: int) -> None:
    low, high = (0, 256) if x.dtype == np.uint8 else (-1, 1)
    result = run_builtin("sample_stats", {"x": x}, bins=str(bins), low=str(low), high=str(high))
    wide = x.astype("f8")
    assert result["count"].tolist() == [x.size]
    assert result["minimum"].tolist() == [wide.min()]
    assert result["maximum"].tolist() == [wide.max()]
    np.testing.assert_allclose(result["mean"], [wide.mean()], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result["variance"], [wide.var()], rtol=1e-12, atol=1e-12)
    # Bins of a power of two are exact; what is outside counts at the ends, as the clipped value would.
    inside = np.clip(wide, low, np.nextafter(high, low))
    assert result["histogram"].tolist() == np.histogram(inside, bins, (low, high))[0].tolist()


def test_the_defaults(run_builtin: RunBuiltin) -> None:
    grey = run_builtin("sample_stats", {"x": np.array([[0, 255], [16, 15]], "u1")})
    assert grey["histogram"].tolist() == [2, 1, *[0] * 13, 1]
    shares = run_builtin("sample_stats", {"x": np.array([0, 1, 0.5], "f4")}, bins="2")
    assert shares["histogram"].tolist() == [1, 2]
    assert shares["mean"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("x", "metadata", "message"),
    [
        (np.zeros(3, "f8"), {}, "'x' is F64; it must be F32"),
        (np.zeros(0, "f4"), {}, "no elements"),
        (np.array([0, np.inf], "f4"), {}, "not finite at 1"),
        (np.zeros(3, "f4"), {"bins": "0"}, "from 1 to 65536"),
        (np.zeros(3, "f4"), {"low": "1", "high": "1"}, "'low' must be below 'high'"),
        (np.zeros(3, "f4"), {"low": "x"}, "'low' has 'x'"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, x: npt.NDArray[np.generic], metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("sample_stats", {"x": x}, **metadata)
