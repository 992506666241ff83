"""Whether two outputs are the same result: bit for bit, or within a tolerance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tradepost.pipeline.agreement import compare_documents
from tradepost.pipeline.manifest import Tolerance
from tradepost.pipeline.tensors import TensorDocument

TOLERANCE = Tolerance(atol=1e-3, rtol=1e-2)


def document(metadata: dict[str, str] | None = None, **tensors: object) -> TensorDocument:
    return TensorDocument({name: np.asarray(tensor) for name, tensor in tensors.items()}, metadata or {})


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        (document(x=f32(1.0)), document(x=f32(1.0)), ""),
        (document(x=f32(1.0)), document(x=f32(1.0109)), ""),
        (document(x=f32(1.0)), document(x=f32(1.02)), "beyond tolerance in 1 of 1"),
        # The tolerance is the reference's: 1% of it, so a and b do not trade places.
        (document(x=f32(10.0)), document(x=f32(10.101)), ""),
        (document(x=f32(10.102)), document(x=f32(10.0)), "beyond tolerance"),
        (document(x=f32(np.nan, np.inf)), document(x=f32(np.nan, np.inf)), ""),
        (document(x=f32(np.nan)), document(x=f32(1.0)), "beyond tolerance"),
        (document(x=f32(np.inf)), document(x=f32(-np.inf)), "beyond tolerance"),
        (document(x=f32(1.0)), document(x=f32(np.inf)), "beyond tolerance"),
        (document(x=np.float16([60000.0])), document(x=np.float16([59900.0])), ""),
        (document(x=f32(1.0)), document(x=np.float64([1.0])), "is F32[1], the reference F64[1]"),
        (document(x=f32(1.0)), document(x=f32(1.0, 1.0)), "is F32[1], the reference F32[2]"),
        (document(x=f32(1.0)), document(y=f32(1.0)), "tensors ['x'], the reference ['y']"),
        (document({"label": "7"}, x=f32(1.0)), document({"label": "8"}, x=f32(1.0)), "metadata differs"),
        (document(x=np.int64([3, 4])), document(x=np.int64([3, 5])), "differs in 1 of 2 values"),
        (document(x=np.array([True])), document(x=np.array([False])), "differs in 1 of 1 values"),
        (document(x=f32(0.0)), document(x=f32(-0.0)), ""),
        (document(), document(), ""),
    ],
)
def test_comparison(a: TensorDocument, b: TensorDocument, difference: str) -> None:
    agreement = compare_documents(a, b, TOLERANCE)
    assert agreement.agrees == (not difference)
    assert difference in agreement.difference


def test_every_value_of_a_large_tensor_is_compared() -> None:
    a = np.zeros((3, 100_000), np.float32)
    for position in ((0, 0), (1, 50_000), (2, 99_999)):
        b = a.copy()
        b[position] = 1
        assert (
            compare_documents(document(x=a), document(x=b), TOLERANCE).difference
            == "tensor 'x' differs beyond tolerance in 1 of 300000 values"
        )


def test_booleans_of_other_bits_differ() -> None:
    a, b = np.array([1], np.uint8).view(bool), np.array([2], np.uint8).view(bool)
    assert not compare_documents(document(x=a), document(x=b), TOLERANCE).agrees


@given(
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
)
def test_floats_agree_exactly_within_the_formula(a: np.ndarray, b: np.ndarray) -> None:
    wide_a, wide_b = a.astype(float), b.astype(float)
    within = bool(np.all(np.abs(wide_a - wide_b) <= TOLERANCE.atol + TOLERANCE.rtol * np.abs(wide_b)))
    assert compare_documents(document(x=a), document(x=b), TOLERANCE).agrees == within


@given(
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
)
def test_without_a_reference_the_order_does_not_matter_and_neither_makes_room_for_itself(
    a: np.ndarray, b: np.ndarray
) -> None:
    one = compare_documents(document(x=a), document(x=b), TOLERANCE, has_reference=False)
    assert one == compare_documents(document(x=b), document(x=a), TOLERANCE, has_reference=False)
    if one.agrees:
        assert 0 <= one.share <= 1
        for first, second in ((a, b), (b, a)):
            assert compare_documents(document(x=first), document(x=second), TOLERANCE).agrees


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_tolerance_of_everything_is_lowered_to_the_ceiling(dtype: type) -> None:
    everything = Tolerance(atol=1, rtol=1)
    reference = np.linspace(0.1, 0.9, 9).astype(dtype)
    assert not compare_documents(document(x=reference * 0), document(x=reference), everything).agrees
    assert not compare_documents(document(x=reference * 1.5), document(x=reference), everything).agrees
    noisy = (reference * 1.001).astype(dtype)
    assert compare_documents(document(x=noisy), document(x=reference), everything).agrees
