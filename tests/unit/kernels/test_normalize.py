"""normalize against Pillow (resizing) and NumPy (arithmetic), bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pictures import Pixels, noise, resized_by_pillow
from tradepost.errors import KernelError, KernelMemoryExceeded
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]

BILINEAR = Image.Resampling.BILINEAR
sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


@given(
    seed=seeds, size=st.tuples(sides, sides), to=st.tuples(sides, sides), channels=st.sampled_from([1, 3, 4])
)
@example(seed=0, size=(300, 7), to=(1, 200), channels=3)
@example(seed=0, size=(1, 1), to=(3, 500), channels=1)
def test_resizing_equals_pillow_bit_for_bit(
    run_builtin: RunBuiltin, seed: int, size: tuple[int, int], to: tuple[int, int], channels: int
) -> None:
    image = noise(seed, *size, channels)
    result = run_builtin("normalize", {"image": image}, size=f"{to[0]},{to[1]}", scale="1")
    assert result["image"].dtype == np.float32
    assert np.array_equal(
        result["image"], resized_by_pillow(image, *to, BILINEAR).transpose(2, 0, 1)[np.newaxis]
    )


@pytest.mark.parametrize("to", [(224, 224), (32, 100), (200, 50), (480, 640)])
def test_one_call_of_pillow_differs_by_a_level_at_most(run_builtin: RunBuiltin, to: tuple[int, int]) -> None:
    # From version 13 on, Pillow goes down first where that saves work, and so rounds in another order.
    image = noise(1, 97, 131, 3)
    result = run_builtin("normalize", {"image": image}, size=f"{to[0]},{to[1]}", scale="1")["image"][0]
    whole = np.asarray(Image.fromarray(image).resize((to[1], to[0]), BILINEAR)).transpose(2, 0, 1)
    assert np.abs(result - whole).max() <= 1


numbers = st.floats(-1000, 1000, allow_subnormal=False).map(lambda value: round(value, 9))
divisors = st.floats(0.001, 1000).map(lambda value: round(value, 6))


@given(
    scale=divisors,
    mean=st.lists(numbers, min_size=3, max_size=3),
    std=st.lists(divisors, min_size=3, max_size=3),
)
def test_arithmetic_equals_numpy_bit_for_bit(
    run_builtin: RunBuiltin, scale: float, mean: list[float], std: list[float]
) -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    parameters = {
        "scale": repr(scale),
        "mean": ", ".join(map(repr, mean)),
        "std": ",".join(map(repr, std)),
    }
    expected = ((image.astype("f8") / scale - mean) / std).astype("f4")
    planes = run_builtin("normalize", {"image": image}, **parameters)["image"]
    assert np.array_equal(planes[0], expected.transpose(2, 0, 1))
    pixels = run_builtin("normalize", {"image": image}, **parameters, layout="nhwc")["image"]
    assert np.array_equal(pixels[0], expected)


@given(st.from_regex(r"[+-]?([0-9]{1,9}\.?[0-9]{0,8}|\.[0-9]{1,8})([eE][+-]?[0-9]{1,2})?", fullmatch=True))
@example("9007199254740993")
@example("0.1")
@example("123456789012345678e-19")
@example("4503599627370497.5")
@example("-0.0")
def test_decimal_numbers_are_read_as_python_reads_them(run_builtin: RunBuiltin, text: str) -> None:
    image = np.zeros((1, 1), np.uint8)
    try:
        result = run_builtin("normalize", {"image": image}, mean=text)["image"]
    except KernelError:
        _, digits, exponent = Decimal(text).normalize().as_tuple()
        assert len(digits) > 17 or int(exponent) not in range(-19, 20)
    else:
        assert result.tobytes() == np.float32(0 - np.float64(float(text))).tobytes()


def test_shapes(run_builtin: RunBuiltin) -> None:
    def shape(*image: int, **metadata: str) -> tuple[int, ...]:
        return run_builtin("normalize", {"image": noise(0, *image)}, **metadata)["image"].shape

    assert shape(5, 7) == (1, 1, 5, 7)
    assert shape(5, 7, 3) == (1, 3, 5, 7)
    assert shape(2, 5, 7, 4, size="3,6") == (2, 4, 3, 6)
    assert shape(2, 5, 7, 4, size="3,6", layout="nhwc") == (2, 3, 6, 4)
    assert shape(0, 5, 7, 3) == (0, 3, 5, 7)


def test_a_batch_is_its_images(run_builtin: RunBuiltin) -> None:
    batch = noise(3, 4, 9, 11, 3)
    together = run_builtin("normalize", {"image": batch}, size="5,6")["image"]
    apart = [run_builtin("normalize", {"image": image}, size="5,6")["image"] for image in batch]
    assert np.array_equal(together, np.concatenate(apart))


def test_the_defaults_scale_to_one(run_builtin: RunBuiltin) -> None:
    image = np.array([[0, 51, 255]], np.uint8)
    assert run_builtin("normalize", {"image": image})["image"].ravel().tolist() == [0, np.float32(0.2), 1]


@pytest.mark.parametrize(
    ("image", "metadata", "message"),
    [
        (np.zeros((2, 2), "f4"), {}, "'image' is F32; it must be U8"),
        (np.zeros(4, "u1"), {}, "rank 1"),
        (np.zeros((2, 2, 2), "u1"), {}, "2 channels"),
        (np.zeros((0, 2), "u1"), {}, "0 by 2"),
        (np.zeros((2, 32769, 1), "u1"), {}, "2 by 32769"),
        (np.zeros((2, 2), "u1"), {"size": "2"}, "height,width"),
        (np.zeros((2, 2), "u1"), {"size": "2,2,2"}, "more than 2"),
        (np.zeros((2, 2), "u1"), {"size": "2,0"}, "whole numbers from 1 to 32768"),
        (np.zeros((2, 2), "u1"), {"size": "2,32769"}, "whole numbers"),
        (np.zeros((2, 2), "u1"), {"size": "2,1.5"}, "whole numbers"),
        (np.zeros((2, 2), "u1"), {"size": "2,"}, "'size' has ''"),
        (np.zeros((2, 2, 3), "u1"), {"mean": "1,2"}, "2 numbers; the image has 3 channels"),
        (np.zeros((2, 2, 3), "u1"), {"mean": "1,2,3,4,5"}, "more than 4"),
        (np.zeros((2, 2), "u1"), {"std": "0"}, "cannot be 0"),
        (np.zeros((2, 2), "u1"), {"scale": "-0.0"}, "cannot be 0"),
        (np.zeros((2, 2), "u1"), {"mean": "nan"}, "decimal number"),
        (np.zeros((2, 2), "u1"), {"mean": "1e999"}, "decimal number"),
        (np.zeros((2, 2), "u1"), {"mean": "0x1"}, "decimal number"),
        (np.zeros((2, 2), "u1"), {"layout": "chw"}, "nchw or nhwc"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, image: Pixels, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("normalize", {"image": image}, **metadata)


def test_other_inputs_are_refused(run_builtin: RunBuiltin) -> None:
    with pytest.raises(KernelError, match="'image' is missing"):
        run_builtin("normalize", {"picture": np.zeros((2, 2), "u1")})
    with pytest.raises(KernelMemoryExceeded):
        run_builtin("normalize", {"image": np.zeros((2, 2, 4), "u1")}, size="8192,8192")
