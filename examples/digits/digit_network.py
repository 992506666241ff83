"""A convolutional network for 8x8 images, trained in NumPy: small enough to read, no framework to install.

One 3x3 convolution with stride 2 gives `FILTERS` features at each of 4x4 places; a hidden layer and a linear
layer turn them into ten logits. A convolution is a matrix product over the image's patches, so the whole
network is three products with rectifiers between them, and its gradient is the same three products backwards.
Noise on the training images is the only augmentation: the digits come centred and scaled, and moving them
makes the result worse.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

FILTERS: Final = 32
HIDDEN: Final = 64
CLASSES: Final = 10
KERNEL: Final = 3
STRIDE: Final = 2
PADDING: Final = 1
PLACES: Final = 16

Array = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.uint8]
Parameters = dict[str, Array]


def train(
    images: Array,
    labels: Labels,
    *,
    seed: int,
    epochs: int = 30,
    batch: int = 32,
    learning_rate: float = 2e-3,
    noise: float = 0.3,
) -> Parameters:
    """The parameters learnt from normalised `images` [N, 8, 8] and `labels` [N] by AdamW.

    The learning rate falls to 0 along a cosine; `noise` is the standard deviation of what each training image
    gets added. The same seed gives the same parameters on one machine; another BLAS rounds differently.
    """
    rng = np.random.default_rng(seed)
    parameters = _initial(rng)
    optimiser = _AdamW(parameters)
    for epoch in range(epochs):
        rate = learning_rate * (1 + np.cos(np.pi * epoch / epochs)) / 2
        order = rng.permutation(len(images))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            noisy = images[chosen] + rng.normal(0, noise, images[chosen].shape).astype(np.float32)
            optimiser.step(gradients(parameters, noisy, labels[chosen]), rate=rate)
    return parameters


def logits(parameters: Parameters, images: Array) -> Array:
    """The ten logits [N, 10] of each normalised image [N, 8, 8]."""
    return _forward(parameters, images)[-1]


def loss(parameters: Parameters, images: Array, labels: Labels) -> float:
    """The mean cross-entropy in nats, which training lowers."""
    log_chances = np.log(_softmax(logits(parameters, images)))
    return float(-log_chances[np.arange(len(labels)), labels].mean())


def gradients(parameters: Parameters, images: Array, labels: Labels) -> Parameters:
    """The gradient of `loss` with respect to every parameter."""
    patches, features, hidden, scores = _forward(parameters, images)
    d_scores = _softmax(scores)
    d_scores[np.arange(len(labels)), labels] -= 1
    d_scores /= len(labels)
    d_hidden = (d_scores @ parameters["output.weight"].T) * (hidden > 0)
    d_features = (d_hidden @ parameters["hidden.weight"].T) * (features > 0)
    d_places = d_features.reshape(-1, FILTERS)
    return {
        "conv.weight": patches.reshape(-1, KERNEL * KERNEL).T @ d_places,
        "conv.bias": d_places.sum(axis=0),
        "hidden.weight": features.T @ d_hidden,
        "hidden.bias": d_hidden.sum(axis=0),
        "output.weight": hidden.T @ d_scores,
        "output.bias": d_scores.sum(axis=0),
    }


def _initial(rng: np.random.Generator) -> Parameters:
    parameters: Parameters = {}
    for layer, fan_in, fan_out in (
        ("conv", KERNEL * KERNEL, FILTERS),
        ("hidden", PLACES * FILTERS, HIDDEN),
        ("output", HIDDEN, CLASSES),
    ):
        spread = np.sqrt(2 / fan_in)  # He: keeps the variance through a rectifier
        parameters[f"{layer}.weight"] = (rng.standard_normal((fan_in, fan_out)) * spread).astype(np.float32)
        parameters[f"{layer}.bias"] = np.zeros(fan_out, np.float32)
    return parameters


def _forward(parameters: Parameters, images: Array) -> tuple[Array, Array, Array, Array]:
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    windows = sliding_window_view(padded, (KERNEL, KERNEL), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    patches = windows.reshape(len(images), PLACES, KERNEL * KERNEL)
    convolved = np.maximum(patches @ parameters["conv.weight"] + parameters["conv.bias"], 0)
    features = convolved.reshape(len(images), PLACES * FILTERS)
    hidden = np.maximum(features @ parameters["hidden.weight"] + parameters["hidden.bias"], 0)
    return patches, features, hidden, hidden @ parameters["output.weight"] + parameters["output.bias"]


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: Array = powers / powers.sum(axis=1, keepdims=True)
    return chances


class _AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), with its usual constants."""

    _DECAY_MEAN: Final = 0.9
    _DECAY_SQUARE: Final = 0.999
    _WEIGHT_DECAY: Final = 0.1
    _EPSILON: Final = 1e-8

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._mean = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._square = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._steps = 0

    def step(self, gradient: Parameters, *, rate: float) -> None:
        """Move the parameters one step of size `rate` down the gradient."""
        self._steps += 1
        for name, value in self._parameters.items():
            mean, square = self._mean[name], self._square[name]
            mean += (1 - self._DECAY_MEAN) * (gradient[name] - mean)
            square += (1 - self._DECAY_SQUARE) * (gradient[name] ** 2 - square)
            unbiased_mean = mean / (1 - self._DECAY_MEAN**self._steps)
            unbiased_square = square / (1 - self._DECAY_SQUARE**self._steps)
            direction = unbiased_mean / (np.sqrt(unbiased_square) + self._EPSILON)
            change = np.float32(rate) * (direction + self._WEIGHT_DECAY * value)
            np.subtract(value, change, out=value)
