"""resize against Pillow (weighted filters, bit for bit) and NumPy (nearest, letterbox)."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pictures import Pixels, noise, resized_by_pillow
from tradepost.errors import KernelError, KernelMemoryExceeded
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
}
sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)


def nearest(image: Pixels, height: int, width: int) -> Pixels:
    rows = (2 * np.arange(height) + 1) * image.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * image.shape[1] // (2 * width)
    result: Pixels = image[rows][:, columns]
    return result


@given(
    seed=seeds,
    size=sizes,
    to=sizes,
    channels=st.sampled_from([1, 3, 4]),
    name=st.sampled_from(sorted(FILTERS)),
)
@example(seed=0, size=(300, 7), to=(1, 200), channels=3, name="area")
@example(seed=0, size=(1, 1), to=(3, 500), channels=1, name="bicubic")
def test_weighted_filters_equal_pillow_bit_for_bit(
    run_builtin: RunBuiltin, seed: int, size: tuple[int, int], to: tuple[int, int], channels: int, name: str
) -> None:
    image = noise(seed, *size, channels)
    result = run_builtin("resize", {"image": image}, size=f"{to[0]},{to[1]}", filter=name)
    assert np.array_equal(result["image"], resized_by_pillow(image, *to, FILTERS[name]))
    assert result["placed"].tolist() == [0, 0, *to, *size]


def test_extremes_overshoot_and_are_cut_as_pillow_cuts_them(run_builtin: RunBuiltin) -> None:
    image = np.where(noise(5, 12, 12, 1) > 127, np.uint8(255), np.uint8(0))
    result = run_builtin("resize", {"image": image}, size="31,45", filter="bicubic")["image"]
    assert {0, 255} <= set(result.ravel().tolist())
    assert np.array_equal(result, resized_by_pillow(image, 31, 45, FILTERS["bicubic"]))


@given(seed=seeds, size=sizes, to=sizes)
def test_nearest_is_the_pixel_under_the_centre(
    run_builtin: RunBuiltin, seed: int, size: tuple[int, int], to: tuple[int, int]
) -> None:
    image = noise(seed, *size, 3)
    result = run_builtin("resize", {"image": image}, size=f"{to[0]},{to[1]}", filter="nearest")["image"]
    assert np.array_equal(result, nearest(image, *to))


@pytest.mark.parametrize("to", [(64, 64), (32, 100), (200, 50), (480, 640), (97, 131)])
def test_nearest_equals_pillow(run_builtin: RunBuiltin, to: tuple[int, int]) -> None:
    image = noise(1, 97, 131, 3)
    result = run_builtin("resize", {"image": image}, size=f"{to[0]},{to[1]}", filter="nearest")["image"]
    pillow = Image.fromarray(image).resize((to[1], to[0]), Image.Resampling.NEAREST)
    assert np.array_equal(result, np.asarray(pillow))


@given(seed=seeds, size=sizes, to=sizes, place=st.sampled_from(["center", "corner"]))
def test_a_letterbox_is_the_resized_picture_in_a_frame(
    run_builtin: RunBuiltin, seed: int, size: tuple[int, int], to: tuple[int, int], place: str
) -> None:
    image = noise(seed, *size, 3)
    metadata = {"size": f"{to[0]},{to[1]}", "fit": "letterbox", "place": place, "pad": "1,2,3"}
    result = run_builtin("resize", {"image": image}, **metadata)
    top, left, height, width, *source = result["placed"].tolist()
    assert source == list(size)
    scale = min(Fraction(to[0], size[0]), Fraction(to[1], size[1]))
    assert [height, width] == [max(math.floor(side * scale + Fraction(1, 2)), 1) for side in size]
    assert (top, left) == ((0, 0) if place == "corner" else ((to[0] - height) // 2, (to[1] - width) // 2))
    expected = np.tile(np.array([1, 2, 3], np.uint8), (*to, 1))
    expected[top : top + height, left : left + width] = resized_by_pillow(
        image, height, width, FILTERS["bilinear"]
    )
    assert np.array_equal(result["image"], expected)


@pytest.mark.parametrize(
    ("size", "fit", "shape"),
    [
        ("48,0", "stretch", (48, 96)),
        ("0,48", "stretch", (24, 48)),
        ("1,0", "stretch", (1, 2)),
        ("0,1", "stretch", (1, 1)),
        ("30,31", "letterbox", (30, 31)),
    ],
)
def test_a_side_follows_from_the_aspect_ratio(
    run_builtin: RunBuiltin, size: str, fit: str, shape: tuple[int, int]
) -> None:
    image = noise(0, 20, 40)
    assert run_builtin("resize", {"image": image}, size=size, fit=fit)["image"].shape == shape


def test_the_shape_keeps_its_rank(run_builtin: RunBuiltin) -> None:
    for shape, expected in [
        ((5, 7), (3, 6)),
        ((5, 7, 3), (3, 6, 3)),
        ((2, 5, 7, 4), (2, 3, 6, 4)),
        ((0, 5, 7, 1), (0, 3, 6, 1)),
    ]:
        assert run_builtin("resize", {"image": noise(0, *shape)}, size="3,6")["image"].shape == expected


@pytest.mark.parametrize("name", ["nearest", "bilinear", "area", "bicubic"])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_a_batch_is_its_images(run_builtin: RunBuiltin, name: str, fit: str) -> None:
    batch = noise(3, 4, 9, 11, 3)
    metadata = {"size": "5,6", "filter": name, "fit": fit}
    together = run_builtin("resize", {"image": batch}, **metadata)["image"]
    apart = [run_builtin("resize", {"image": image}, **metadata)["image"] for image in batch]
    assert np.array_equal(together, np.stack(apart))


@pytest.mark.parametrize(
    ("image", "metadata", "message"),
    [
        (np.zeros((2, 2), "f4"), {"size": "1,1"}, "'image' is F32; it must be U8"),
        (np.zeros(4, "u1"), {"size": "1,1"}, "rank 1"),
        (np.zeros((2, 2, 2), "u1"), {"size": "1,1"}, "2 channels"),
        (np.zeros((0, 2), "u1"), {"size": "1,1"}, "0 by 2"),
        (np.zeros((2, 2), "u1"), {}, "'height,width'"),
        (np.zeros((2, 2), "u1"), {"size": "2"}, "'height,width'"),
        (np.zeros((2, 2), "u1"), {"size": "0,0"}, "one 0"),
        (np.zeros((2, 2), "u1"), {"size": "0,2", "fit": "letterbox"}, "only with fit = stretch"),
        (np.zeros((2, 2), "u1"), {"size": "2,32769"}, "up to 32768"),
        (np.zeros((2, 2), "u1"), {"size": "2,1.5"}, "whole numbers"),
        (np.zeros((2, 2), "u1"), {"size": "-1,2"}, "whole numbers"),
        (np.zeros((1, 9), "u1"), {"size": "30000,0"}, "30000 by 270000; a side has at most 32768"),
        (
            np.zeros((2, 2), "u1"),
            {"size": "1,1", "filter": "cubic"},
            "one of: bilinear, nearest, area, bicubic",
        ),
        (np.zeros((2, 2), "u1"), {"size": "1,1", "fit": "crop"}, "one of: stretch, letterbox"),
        (np.zeros((2, 2), "u1"), {"size": "1,1", "place": "left"}, "one of: center, corner"),
        (np.zeros((2, 2), "u1"), {"size": "1,1", "pad": "256"}, "from 0 to 255"),
        (np.zeros((2, 2), "u1"), {"size": "1,1", "pad": "0.5"}, "from 0 to 255"),
        (np.zeros((2, 2), "u1"), {"size": "1,1", "pad": "1,2,3"}, "3 numbers; the image has 1"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin, image: Pixels, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("resize", {"image": image}, **metadata)


@pytest.mark.parametrize("size", ["32768,32768", "8192,8192"])
def test_an_output_that_does_not_fit_is_refused(run_builtin: RunBuiltin, size: str) -> None:
    with pytest.raises((KernelMemoryExceeded, KernelError)):
        run_builtin("resize", {"image": np.zeros((2, 2, 4), "u1")}, size=size)
