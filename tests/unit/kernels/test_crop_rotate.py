"""crop_rotate against Pillow (perspective, within a level) and against slices of the image (exactly)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pictures import Pixels, noise
from tradepost.errors import KernelError
from tradepost.pipeline.tensors import TensorDocument

RunBuiltin = Callable[..., TensorDocument]
Quad = list[list[float]]


def rectangle(left: float, top: float, right: float, bottom: float) -> Quad:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def cropped(run_builtin: RunBuiltin, image: Pixels, *quads: Quad, **metadata: str) -> TensorDocument:
    corners = np.array(quads, "f4").reshape(-1, 4, 2)
    return run_builtin("crop_rotate", {"image": image, "quads": corners}, **metadata)


def perspective(image: Pixels, quad: npt.NDArray[np.float64], height: int, width: int) -> Pixels:
    """The crop by Pillow, whose eight coefficients solve the equations of the four corners."""
    rows, values = [], []
    corners = zip([(0, 0), (width, 0), (width, height), (0, height)], quad.tolist(), strict=True)
    for (u, v), (x, y) in corners:
        rows += [[u, v, 1, 0, 0, 0, -u * x, -v * x], [0, 0, 0, u, v, 1, -u * y, -v * y]]
        values += [x, y]
    coefficients = np.linalg.solve(np.array(rows, "f8"), np.array(values, "f8"))
    made = Image.fromarray(image).transform(
        (width, height), Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BILINEAR
    )
    return np.asarray(made)


@given(
    seed=st.integers(0, 2**32 - 1),
    moves=st.lists(st.integers(-24, 24), min_size=8, max_size=8),
    size=st.tuples(st.integers(1, 12), st.integers(1, 20)),
)
def test_it_equals_pillow_within_a_level(
    run_builtin: RunBuiltin, seed: int, moves: list[int], size: tuple[int, int]
) -> None:
    image = noise(seed, 40, 60, 3)
    quad = np.array(rectangle(10, 8, 48, 30)) + np.array(moves).reshape(4, 2) / 4
    height, width = size
    result = cropped(
        run_builtin, image, quad.tolist(), height=str(height), width=str(width), fit="stretch", turn="0"
    )
    expected = perspective(image, quad, height, width)
    # Pillow cuts where we round to the nearest level.
    difference = result["crops"][0].astype(int) - expected
    assert difference.min() >= -1
    assert difference.max() <= 1
    assert result["width"].tolist() == [width]


@given(
    left=st.integers(0, 20),
    top=st.integers(0, 20),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
    channels=st.sampled_from([1, 3, 4]),
)
def test_an_upright_rectangle_is_a_slice(
    run_builtin: RunBuiltin, left: int, top: int, width: int, height: int, channels: int
) -> None:
    image = noise(left, 40, 40, channels)
    quad = rectangle(left, top, left + width, top + height)
    result = cropped(run_builtin, image, quad, height=str(height), width=str(width), turn="0")
    assert np.array_equal(result["crops"][0], image[top : top + height, left : left + width])


def test_a_tall_picture_is_turned_against_the_clock(run_builtin: RunBuiltin) -> None:
    image = noise(1, 40, 40, 3)
    result = cropped(run_builtin, image, rectangle(5, 2, 13, 26), height="8", width="24")
    assert result["turned"].tolist() == [1]
    assert np.array_equal(result["crops"][0], np.rot90(image[2:26, 5:13]))
    almost = cropped(run_builtin, image, rectangle(5, 2, 13, 13.9), height="8", width="24")
    assert almost["turned"].tolist() == [0]


def test_a_short_picture_is_padded_and_a_long_one_squeezed(run_builtin: RunBuiltin) -> None:
    image = noise(2, 40, 60)
    short, long = rectangle(0, 0, 20, 10), rectangle(0, 0, 60, 10)
    result = cropped(run_builtin, image, short, long, height="10", width="30", pad="7")
    assert result["crops"].shape == (2, 10, 30, 1)
    assert result["width"].tolist() == [20, 30]
    assert np.array_equal(result["crops"][0, :, :20, 0], image[:10, :20])
    assert (result["crops"][0, :, 20:] == 7).all()
    stretched = cropped(run_builtin, image, short, height="10", width="30", fit="stretch")
    assert stretched["width"].tolist() == [30]


def test_the_border_goes_on_beyond_the_image(run_builtin: RunBuiltin) -> None:
    image = noise(3, 10, 10, 3)
    result = cropped(run_builtin, image, rectangle(-5, -5, 15, 15), height="20", width="20")
    assert np.array_equal(result["crops"][0], np.pad(image, ((5, 5), (5, 5), (0, 0)), mode="edge"))


def test_no_quadrilateral_is_no_error(run_builtin: RunBuiltin) -> None:
    result = cropped(run_builtin, noise(0, 4, 4, 3))
    assert result["crops"].shape == (0, 48, 320, 3)
    assert result["width"].shape == (0,)


IMAGE, QUADS = np.zeros((4, 4), "u1"), np.array([rectangle(0, 0, 2, 2)], "f4")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"image": IMAGE}, {}, "'quads' is missing"),
        ({"image": IMAGE.astype("f4"), "quads": QUADS}, {}, "'image' is F32"),
        ({"image": np.zeros((1, 4, 4, 3), "u1"), "quads": QUADS}, {}, "one image"),
        ({"image": IMAGE, "quads": QUADS.astype("f8")}, {}, "'quads' is F64"),
        ({"image": IMAGE, "quads": QUADS[0]}, {}, r"\[M, 4, 2\]"),
        ({"image": IMAGE, "quads": QUADS.reshape(1, 2, 4)}, {}, r"\[M, 4, 2\]"),
        (
            {"image": IMAGE, "quads": QUADS * np.float32("nan")},
            {},
            "quadrilateral 0 has a corner beyond 1000000",
        ),
        ({"image": IMAGE, "quads": QUADS * 1e6}, {}, "beyond 1000000, or not finite"),
        ({"image": IMAGE, "quads": QUADS * 0}, {}, "quadrilateral 0 has no inside"),
        ({"image": IMAGE, "quads": QUADS[:, [0, 2, 1, 3]]}, {}, "not convex"),
        ({"image": IMAGE, "quads": QUADS}, {"height": "4097"}, "from 1 to 4096"),
        ({"image": IMAGE, "quads": QUADS}, {"width": "0"}, "from 1 to 32768"),
        ({"image": IMAGE, "quads": QUADS}, {"pad": "256"}, "from 0 to 255"),
        ({"image": IMAGE, "quads": QUADS}, {"fit": "letterbox"}, "one of: pad, stretch"),
    ],
)
def test_errors_name_the_mistake(
    run_builtin: RunBuiltin,
    tensors: dict[str, npt.NDArray[np.generic]],
    metadata: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(KernelError, match=message):
        run_builtin("crop_rotate", tensors, **metadata)
