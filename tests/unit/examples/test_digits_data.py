"""The demo's data: reproducible, honest about what was held out, and good enough."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import digit_network
import numpy as np
import onnxruntime
import pytest
import train
from digit_onnx import export

from tradepost.pipeline.tensors import decode

DATA = Path(str(files("tradepost.demo") / "data"))
ACCURACY_MIN = 0.97


@pytest.fixture(scope="module")
def digits() -> train.Digits:
    return train.load()


@pytest.fixture(scope="module")
def normalise() -> train.Normalisation:
    return train.Normalisation.from_pipeline(DATA / "pipeline.toml")


@pytest.fixture(scope="module")
def retrained(digits: train.Digits, normalise: train.Normalisation) -> bytes:
    return train.fit(digits, normalise)


def test_the_parts_are_disjoint_and_complete(digits: train.Digits) -> None:
    trained_on = {image.tobytes() for image in digits.train_images}
    held_out = {image.tobytes() for image in digits.held_out_images}
    assert len(digits.train_labels) == 1198
    assert len(digits.held_out_labels) == 599
    assert not trained_on & held_out


def test_the_parts_have_the_same_share_of_each_digit(digits: train.Digits) -> None:
    shares = [np.bincount(part) / len(part) for part in (digits.train_labels, digits.held_out_labels)]
    assert np.abs(shares[0] - shares[1]).max() < 0.002


def test_the_shipped_held_out_part_is_the_one_that_the_script_makes(
    digits: train.Digits, normalise: train.Normalisation
) -> None:
    shipped = (DATA / "held_out.safetensors").read_bytes()
    model = (DATA / "digits.onnx").read_bytes()
    predicted = train.predict(model, normalise(digits.held_out_images))
    assert train.held_out_document(digits, predicted) == shipped


def test_the_normalisation_is_that_of_the_training_part(
    digits: train.Digits, normalise: train.Normalisation
) -> None:
    scaled = digits.train_images / normalise.scale
    assert (round(scaled.mean(), 3), round(scaled.std(), 3)) == (normalise.mean, normalise.std)


def test_the_shipped_model_is_accurate_on_what_was_held_out(normalise: train.Normalisation) -> None:
    document = decode((DATA / "held_out.safetensors").read_bytes())
    model = (DATA / "digits.onnx").read_bytes()
    right = train.predict(model, normalise(document["images"])) == document["labels"]
    assert right.mean() >= ACCURACY_MIN


@pytest.mark.slow
def test_training_again_gives_the_same_bytes(
    digits: train.Digits, normalise: train.Normalisation, retrained: bytes
) -> None:
    assert train.fit(digits, normalise) == retrained


def test_training_again_gives_the_shipped_predictions(
    digits: train.Digits, normalise: train.Normalisation, retrained: bytes
) -> None:
    # Not the shipped bytes: another machine's BLAS rounds differently, and training carries that on.
    images = normalise(digits.held_out_images)
    again = train.predict(retrained, images)
    shipped = train.predict((DATA / "digits.onnx").read_bytes(), images)
    assert (again == digits.held_out_labels).mean() >= ACCURACY_MIN
    assert (again == shipped).mean() >= 0.98


def test_the_exported_graph_computes_what_the_network_does(
    digits: train.Digits, normalise: train.Normalisation
) -> None:
    images = normalise(digits.train_images[:200])
    parameters = digit_network.train(images, digits.train_labels[:200], seed=1, epochs=2)
    session = onnxruntime.InferenceSession(
        export(parameters, name="two-epochs"), providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(["logits"], {"image": images[:, np.newaxis]})
    np.testing.assert_allclose(logits, digit_network.logits(parameters, images), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_loss() -> None:
    rng = np.random.default_rng(3)
    images = rng.normal(size=(6, 8, 8)).astype(np.float32)
    labels = rng.integers(0, 10, 6).astype(np.uint8)
    parameters = digit_network.train(images, labels, seed=2, epochs=1)
    # In double precision a central difference is good to some eight digits.
    exact: digit_network.Parameters = {name: value.astype(np.float64) for name, value in parameters.items()}
    for name, gradient in digit_network.gradients(exact, images, labels).items():
        place = tuple(rng.integers(0, size) for size in gradient.shape)
        step = 1e-5
        exact[name][place] += step
        above = digit_network.loss(exact, images, labels)
        exact[name][place] -= 2 * step
        below = digit_network.loss(exact, images, labels)
        exact[name][place] += step
        assert (above - below) / (2 * step) == pytest.approx(gradient[place], rel=1e-4, abs=1e-9), name


def test_the_script_writes_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retrained: bytes
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--out", str(tmp_path)])
    train.main()
    assert (tmp_path / "digits.onnx").read_bytes() == retrained
    assert (tmp_path / "labels.txt").read_text() == (DATA / "labels.txt").read_text()
    assert set(decode((tmp_path / "held_out.safetensors").read_bytes()).tensors) == {
        "images",
        "labels",
        "predicted",
    }
