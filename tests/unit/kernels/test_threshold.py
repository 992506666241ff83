"""threshold against NumPy's comparisons."""

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

COMPARE = {"at-least": np.greater_equal, "above": np.greater, "at-most": np.less_equal, "below": np.less}
scores = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    elements=st.sampled_from([0.0, -0.0, 0.1, 0.5, 0.75, np.inf, -np.inf]) | st.floats(-1, 1, width=32),
)


@given(scores=scores, value=st.sampled_from([0.0, 0.1, 0.5, -0.25]), compare=st.sampled_from(sorted(COMPARE)))
def test_it_equals_numpy(
    run_builtin: RunBuiltin, scores: npt.NDArray[np.float32], value: float, compare: str
) -> None:
    result = run_builtin("threshold", {"scores": scores}, value=str(value), compare=compare)
    over = COMPARE[compare](scores, np.float32(value))
    assert np.array_equal(result["over"], over.astype("u1"))
    assert result["index"].tolist() == np.flatnonzero(over).tolist()
    assert result["any"].tolist() == [over.any()]


def test_the_default_is_a_half_or_more(run_builtin: RunBuiltin) -> None:
    result = run_builtin("threshold", {"scores": np.array([0.49, 0.5, 0.51], "f4")})
    assert result["over"].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("scores", "metadata", "message"),
    [
        (np.zeros(3, "f8"), {}, "'scores' is F64"),
        (np.array([0, np.nan], "f4"), {}, "NaN at 1"),
        (np.zeros(3, "f4"), {"value": "half"}, "'value' has 'half'"),
        (np.zeros(3, "f4"), {"value": "1,2"}, "more than 1"),
        (np.zeros(3, "f4"), {"compare": "equal"}, "one of: at-least, above, at-most, below"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, scores: npt.NDArray[np.floating], metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("threshold", {"scores": scores}, **metadata)
