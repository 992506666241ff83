"""Train the digit classifier that `tradepost demo` runs, and write it with the held-out images.

Run `python examples/digits/train.py`. Two thirds of the 1,797 UCI digits that scikit-learn ships are trained
on; the other third, drawn once with a fixed seed and evenly over the ten classes, is never seen in training
and is what the demo classifies. Normalisation is read from `pipeline.toml`, so training and serving agree.
"""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import digit_network
import numpy as np
import numpy.typing as npt
import onnxruntime
from digit_network import Array, Labels
from digit_onnx import export
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tradepost.pipeline.tensors import TensorDocument, encode

DATA: Final = Path(__file__).parents[2] / "sdk" / "tradepost" / "demo" / "data"
SEED: Final = 0
HELD_OUT: Final = 599
#: The data set's pixels count the dark points of a 4x4 block, so they go from 0 to 16.
PIXEL_MAX: Final = 16

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Digits:
    """The data set, divided: images U8 [N, 8, 8] from 0 (paper) to 255 (ink), and labels U8 [N]."""

    train_images: Images
    train_labels: Labels
    held_out_images: Images
    held_out_labels: Labels


@dataclass(frozen=True)
class Normalisation:
    """What the `normalize` kernel does to a pixel: `(x / scale - mean) / std`."""

    scale: float
    mean: float
    std: float

    @classmethod
    def from_pipeline(cls, pipeline_toml: Path) -> Normalisation:
        """The normalisation that the pipeline's first stage declares."""
        stages = tomllib.loads(pipeline_toml.read_text())["stage"]
        metadata = next(stage for stage in stages if stage["name"] == "normalize")["metadata"]
        return cls(*(float(metadata[name]) for name in ("scale", "mean", "std")))

    def __call__(self, images: Images) -> Array:
        scaled = images.astype(np.float32) / np.float32(self.scale)
        normalised: Array = (scaled - np.float32(self.mean)) / np.float32(self.std)
        return normalised


def load() -> Digits:
    """The UCI digits, divided the same way on every machine."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * 255 / PIXEL_MAX).astype(np.uint8)
    labels = labels.astype(np.uint8)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, random_state=SEED, stratify=labels
    )
    return Digits(images[train], labels[train], images[held_out], labels[held_out])


def fit(digits: Digits, normalise: Normalisation) -> bytes:
    """The ONNX file of a network trained on the training part; the same bytes each time on one machine."""
    # More than one BLAS thread adds up in an order that may change from run to run.
    with threadpool_limits(limits=1):
        parameters = digit_network.train(normalise(digits.train_images), digits.train_labels, seed=SEED)
    return export(parameters, name="digits")


def predict(model: bytes, normalised: Array) -> Labels:
    """The labels [N] that an ONNX file gives for normalised images [N, 8, 8]."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": normalised[:, np.newaxis]})
    labels: Labels = np.argmax(logits, axis=1).astype(np.uint8)
    return labels


def held_out_document(digits: Digits, predicted: Labels) -> bytes:
    """The held-out part as a tensor document: `images` U8 [N, 8, 8], `labels` and `predicted` U8 [N].

    `predicted` is what the model says, right or wrong: what an honest worker answers.
    """
    return encode(
        TensorDocument(
            tensors={
                "images": digits.held_out_images,
                "labels": digits.held_out_labels,
                "predicted": predicted,
            },
            metadata={
                "source": "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, 1998",
                "license": "CC-BY-4.0",
            },
        )
    )


def main() -> None:
    """Train, report the accuracy on the held-out part, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=DATA, help="the folder to write to (default: %(default)s)"
    )
    out: Path = parser.parse_args().out

    digits = load()
    normalise = Normalisation.from_pipeline(DATA / "pipeline.toml")
    model = fit(digits, normalise)
    predicted = predict(model, normalise(digits.held_out_images))
    right = predicted == digits.held_out_labels

    out.mkdir(parents=True, exist_ok=True)
    (out / "digits.onnx").write_bytes(model)
    (out / "held_out.safetensors").write_bytes(held_out_document(digits, predicted))
    (out / "labels.txt").write_text("\n".join(str(digit) for digit in range(digit_network.CLASSES)))
    print(f"Trained on {len(digits.train_labels):,} images; {len(model):,} bytes of ONNX in {out}")
    print(f"Right on {right.sum()} of {len(right)} held-out images: {right.mean():.2%}")


if __name__ == "__main__":
    main()
