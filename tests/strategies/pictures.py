"""Pictures of noise, and Pillow's way of resizing them, which kernels must equal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def noise(seed: int, *shape: int) -> Pixels:
    """Any pixels, the same ones for the same seed."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def resized_by_pillow(image: Pixels, height: int, width: int, resampling: Image.Resampling) -> Pixels:
    """Across and then down, each channel on its own: [H, W, C] to [h, w, C]."""
    planes = [Image.fromarray(image[:, :, c]) for c in range(image.shape[2])]
    return np.stack(
        [
            np.asarray(p.resize((width, p.height), resampling).resize((width, height), resampling))
            for p in planes
        ],
        axis=2,
    )
