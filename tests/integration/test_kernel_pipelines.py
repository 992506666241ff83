"""The pipelines of docs/kernels.md, loaded as a publisher loads them and run by a real runner process."""

from __future__ import annotations

import io
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.io import wavfile

from tradepost.pipeline.tensors import TensorDocument, decode, encode
from tradepost_signing.publishing.pipeline_toml import load_pipeline
from tradepost_worker.runner.pipeline_run import PipelineRun
from tradepost_worker.supervision.runner_pool import RunnerPool
from tradepost_worker.supervision.runner_process import RunnerProcess
from tradepost_worker.testing.samples import SamplePipeline

Run = Callable[[str, dict[str, npt.NDArray[np.generic]]], Awaitable[PipelineRun]]

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"
FRAME, CELL, STRIDE = 64, 8, 4
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "small", "##er", "market"]
VECTORS = np.random.default_rng(0).standard_normal((len(WORDS), 5)).astype("f4")


def saved(path: Path, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_detector(path: Path) -> None:
    """Scores are the mean brightness of overlapping cells; the boxes are the cells."""
    starts = np.arange(0, FRAME - CELL + 1, STRIDE)
    corners = np.stack(np.meshgrid(starts, starts), axis=-1).reshape(-1, 2)  # x, y, row by row
    cells = np.concatenate([corners, corners + CELL], axis=1).astype("f4")
    nodes = [
        helper.make_node("AveragePool", ["image"], ["means"], kernel_shape=[CELL] * 2, strides=[STRIDE] * 2),
        helper.make_node("Reshape", ["means", "flat"], ["scores"]),
        helper.make_node("Identity", ["cells"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, FRAME, FRAME])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, list(cells.shape)),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [len(cells)]),
        ],
        [numpy_helper.from_array(cells, "cells"), numpy_helper.from_array(np.array([-1]), "flat")],
    )
    saved(path, graph)


def write_encoder(path: Path) -> None:
    """Each token has a vector of its own."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["vectors", "input_ids"], ["hidden"])],
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", "t", VECTORS.shape[1]])],
        [numpy_helper.from_array(VECTORS, "vectors")],
    )
    saved(path, graph)


@pytest.fixture
async def run(tmp_path: Path) -> Run:
    write_detector(tmp_path / "detector.onnx")
    write_encoder(tmp_path / "encoder.onnx")
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)

    async def run(name: str, inputs: dict[str, npt.NDArray[np.generic]]) -> PipelineRun:
        (text,) = (block for block in blocks if f'name = "{name}"\nversion' in block)
        (tmp_path / "pipeline.toml").write_text(text)
        authored = load_pipeline(tmp_path / "pipeline.toml")
        artifacts = {
            cid: artifact.content if isinstance(artifact.content, bytes) else artifact.content.read_bytes()
            for cid, artifact in authored.artifacts.items()
        }
        pool = RunnerPool(runners_max=1, start=RunnerProcess.start)
        try:
            return await pool.run(
                SamplePipeline(authored.manifest, artifacts), encode(TensorDocument(inputs)), wall_s_max=60
            )
        finally:
            await pool.close()

    return run


def outputs(run: PipelineRun) -> TensorDocument:
    assert run.failure is None, run.failure
    return decode(run.output)


def wav(rate: int, frequency: float) -> npt.NDArray[np.uint8]:
    tone = np.sin(2 * np.pi * frequency * np.arange(rate) / rate) * 20000
    file = io.BytesIO()
    wavfile.write(file, rate, np.stack([tone, tone], axis=1).astype("i2"))
    return np.frombuffer(file.getvalue(), "u1")


async def test_a_detector_finds_the_box_in_the_original_picture(run: Run) -> None:
    image = np.zeros((64, 128), np.uint8)
    image[16:32, 32:48] = 255
    found = outputs(await run("detector", {"image": image}))
    assert found["boxes"].tolist() == [[32, 16, 48, 32]]
    assert found["score"].tolist() == [1]
    assert found["class"].tolist() == [0]


async def test_a_picture_of_nothing_has_no_boxes(run: Run) -> None:
    found = outputs(await run("detector", {"image": np.zeros((30, 30), np.uint8)}))
    assert found["boxes"].shape == (0, 4)


async def test_a_tone_is_in_the_band_of_its_frequency(run: Run) -> None:
    peaks = []
    for frequency in (500.0, 2000.0):
        mel = outputs(await run("spectrogram", {"file": wav(16000, frequency)}))["mel"]
        assert mel.shape == (1, 80, 100)
        peaks.append(mel[0].mean(axis=1).argmax())
    mels = [500 * 3 / 200, 15 + 27 * np.log(2) / np.log(6.4)]
    step = (15 + 27 * np.log(8) / np.log(6.4)) / 81  # band m reaches from m to m + 2 steps
    assert all(peak < mel / step < peak + 2 for peak, mel in zip(peaks, mels, strict=True))


async def test_a_file_of_another_rate_fails_in_the_stage_that_minds(run: Run) -> None:
    ran = await run("spectrogram", {"file": wav(8000, 500)})
    assert ran.failure is not None
    assert ran.failure.stage == "mel"
    assert "a rate of 8000; metadata 'rate' is 16000" in str(ran.failure)


async def test_embeddings_equal_the_formula(run: Run) -> None:
    texts = ["A smaller market.", "small"]
    data = [text.encode() for text in texts]
    result = outputs(
        await run(
            "embeddings",
            {
                "text": np.frombuffer(b"".join(data), "u1"),
                "text_end": np.cumsum([len(text) for text in data], dtype="i4"),
                "vocabulary": np.frombuffer("\n".join(WORDS).encode(), "u1"),
            },
        )
    )
    ids = [[2, 4, 5, 6, 7, 1, 3], [2, 5, 3]]
    means = np.array([VECTORS[row].astype("f8").mean(axis=0) for row in ids])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(result["embedding"], expected, rtol=1e-6)
