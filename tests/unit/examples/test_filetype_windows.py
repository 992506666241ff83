"""The filetype pipeline's stages, run without a market, against magika's own features and predictions."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from pathlib import Path

import identify
import make_pipeline
import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from magika import Magika
from magika.types import Seekable

import tradepost_kernels
from tradepost.pipeline.manifest import KernelStage
from tradepost.pipeline.tensors import Tensor, TensorDocument, decode, encode
from tradepost_signing.publishing.pipeline_toml import AuthoredPipeline, load_pipeline
from tradepost_signing.publishing.validation import validate_pipeline
from tradepost_worker.runner.executor import Executor
from tradepost_worker.runner.inference import Inference
from tradepost_worker.runner.kernel_sandbox import Kernel, Sandbox

#: Byte strings with runs of white space and of anything else, up to some 30 KiB: across both block borders.
CONTENTS = st.lists(
    st.tuples(st.sampled_from([b" ", b"\n", b"\t\v", b"\x00", b"ebb ", b"\xff\x1c"]), st.integers(0, 5000)),
    max_size=4,
).map(lambda runs: b"".join(fill * times for fill, times in runs))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return samples.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> AuthoredPipeline:
    return load_pipeline(make_pipeline.make_pipeline(tmp_path_factory.mktemp("pipeline")))


@pytest.fixture(scope="module")
def window_kernel(sandbox: Sandbox) -> Kernel:
    return sandbox.load(tradepost_kernels.load("bytes_window"))


def magika_window(content: bytes) -> list[int]:
    """The model's input for `content`, as magika makes it: the oracle, which has no public name."""
    features = Magika._extract_features_from_seekable(
        Seekable(io.BytesIO(content)),
        beg_size=1024,
        mid_size=0,
        end_size=1024,
        padding_token=256,
        block_size=4096,
        use_inputs_at_offsets=False,
    )
    return features.beg + features.end


def kernel_window(kernel: Kernel, pipeline: AuthoredPipeline, content: bytes) -> Tensor:
    """The model's input for `content`, as the pipeline's first stage makes it, within that stage's limits."""
    stage = pipeline.manifest.stages[0]
    assert isinstance(stage, KernelStage)
    document = TensorDocument({"bytes": np.frombuffer(content, np.uint8)}, stage.metadata)
    run = kernel.run(
        encode(document),
        fuel=stage.fuel,
        memory_bytes_max=stage.memory_bytes,
        output_bytes_max=1 << 20,
        wall_s_max=5,
    )
    return decode(run.output)["window"]


def test_the_pipeline_is_valid(pipeline: AuthoredPipeline) -> None:
    validate_pipeline(pipeline)


@pytest.mark.slow
def test_the_corpus_is_the_same_each_time(corpus: list[Path], tmp_path: Path) -> None:
    again = samples.write_corpus(tmp_path)
    assert [path.name for path in again] == [path.name for path in corpus]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in corpus]


@given(CONTENTS)
def test_both_ends_of_a_file_have_the_window_of_the_whole(content: bytes) -> None:
    ends = identify.read_ends(io.BytesIO(content))
    assert len(ends) <= 2 * identify.BLOCK_BYTES
    assert magika_window(ends) == magika_window(content)


@given(content=CONTENTS)
def test_the_kernel_cuts_the_window_that_magika_does(
    window_kernel: Kernel, pipeline: AuthoredPipeline, content: bytes
) -> None:
    window = kernel_window(window_kernel, pipeline, content)
    assert window.dtype == np.int32
    assert window.tolist() == [magika_window(content)]


@pytest.mark.slow
def test_the_windows_of_the_corpus_are_magikas(
    window_kernel: Kernel, pipeline: AuthoredPipeline, corpus: list[Path]
) -> None:
    for path in corpus:
        with path.open("rb") as file:
            ends = identify.read_ends(file)
        window = kernel_window(window_kernel, pipeline, ends)
        assert window.tolist() == [magika_window(path.read_bytes())], path.name


@pytest.mark.slow
def test_the_stages_give_the_models_own_labels(
    sandbox: Sandbox, pipeline: AuthoredPipeline, corpus: list[Path]
) -> None:
    artifacts = {str(cid): artifact.read_all() for cid, artifact in pipeline.artifacts.items()}
    executor = Executor(pipeline.manifest, artifacts, sandbox=sandbox, inference=Inference())
    magika = Magika()
    labels = set()
    for path in corpus:
        content = path.read_bytes()
        predicted = magika.identify_bytes(content).prediction
        if predicted.dl.label == "undefined":
            continue  # magika did not ask the model
        document = TensorDocument({"bytes": np.frombuffer(identify.read_ends(io.BytesIO(content)), np.uint8)})
        run = executor.run(encode(document), wall_s_max=10)
        output = decode(run.output)
        label = output.metadata["labels"].split("\n")[0]
        assert label == predicted.dl.label, path.name
        assert output["score"][0, 0] == pytest.approx(predicted.score, abs=1e-5, rel=1e-3)
        labels.add(label)
    assert len(labels) >= 25


def test_a_model_with_another_window_is_refused() -> None:
    config = json.loads(
        (files("magika") / "models" / make_pipeline.MODEL_NAME / "config.min.json").read_text()
    )
    make_pipeline.check_window(config)
    with pytest.raises(ValueError, match=r"has beg_size 2048; pipeline\.toml has head 1024"):
        make_pipeline.check_window(config | {"beg_size": 2048})
    with pytest.raises(ValueError, match="more than a file's two ends"):
        make_pipeline.check_window(config | {"mid_size": 512})
