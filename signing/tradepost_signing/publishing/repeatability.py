"""Whether a model gives the same outputs when it runs again, tried before it is signed.

Workers' results count by agreeing, so a model that contradicts itself can only cost its publisher, its users
and honest workers. It is run on made-up inputs: again as it is, then with more threads, then on each other
execution provider of its stage that is here. So it is seen whatever the cause: training mode, a race between
threads, a tolerance too narrow for a provider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from tradepost.content import Cid
from tradepost.errors import InvalidModel, LeaseTimeout, ModelFailure
from tradepost.pipeline.agreement import compare_documents
from tradepost.pipeline.manifest import ModelStage, TensorSpec
from tradepost.pipeline.tensors import DTYPES, Tensor, TensorDocument
from tradepost_signing.publishing.onnx_interface import Described, Model, providers_here
from tradepost_signing.publishing.pipeline_toml import AuthoredPipeline

_INPUT_BYTES_MAX: Final = 1 << 28
_MORE_THREADS: Final = 4


def check_repeatability(pipeline: AuthoredPipeline) -> list[str]:
    """Run each model stage several times; what could not be tried, in words, by stage.

    Raises `InvalidModel` if two runs differ by more than the stage's tolerance. The pipeline must be valid.
    """
    warnings: list[str] = []
    wall_s = pipeline.manifest.limits.wall_ms / 1000
    for stage in pipeline.manifest.stages:
        if isinstance(stage, ModelStage):
            artifact = pipeline.artifacts[Cid(stage.artifact)]
            try:
                problems = list(_problems(stage, artifact.content, wall_s))
            except InvalidModel as error:
                raise InvalidModel(
                    f"{artifact.source}: {error.detail}", stage=stage.name, hint=error.hint
                ) from None
            warnings += [f"stage {stage.name}: {artifact.source} was {problem}" for problem in problems]
    return warnings


def _problems(stage: ModelStage, content: bytes | Path, wall_s: float) -> Iterator[str]:
    """What kept the runs from being tried, in words."""
    first, *others = providers_here(stage.providers) or ["cpu"]
    while True:
        try:
            model = Model(content, provider=first)
            break
        except InvalidModel as error:
            if not others:
                raise
            yield f"not run on {first} (threads: 1): {error.detail}"
            first, *others = others
    feeds = _made_up(stage, model.interface.inputs)
    if feeds is None:
        yield "not run twice: its smallest inputs are too large to make up"
        return
    try:
        given = _run(model, stage, feeds, wall_s)
        again = _run(model, stage, feeds, wall_s)
    except (ModelFailure, LeaseTimeout) as error:
        yield f"not run twice, as it fails on inputs that are made up: {error.detail}"
        return
    _require_agreement(again, given, stage, "run again")
    for provider, threads in [(first, _MORE_THREADS), *((provider, 1) for provider in others)]:
        way = f"run on {provider} (threads: {threads})"
        try:
            other = _run(Model(content, provider=provider, threads=threads), stage, feeds, wall_s)
        except (InvalidModel, ModelFailure, LeaseTimeout) as error:
            yield f"not {way}: {error.detail}"
        else:
            _require_agreement(other, given, stage, f"{way}, not on {first} (threads: 1)")


def _made_up(stage: ModelStage, inputs: Mapping[str, Described]) -> dict[str, Tensor] | None:
    """A tensor for each input, the same in each run: ones, or floats around zero; unknown lengths are 1."""
    rng = np.random.default_rng(0)
    feeds = {}
    for name in stage.inputs:
        spec = inputs[name]
        assert isinstance(spec, TensorSpec), "a valid pipeline feeds tensors only"
        dtype, shape = DTYPES[spec.dtype], tuple(size or 1 for size in spec.shape)
        if math.prod(shape) * dtype.itemsize > _INPUT_BYTES_MAX:
            return None
        is_float = dtype.kind == "f"
        feeds[name] = (rng.standard_normal(shape) if is_float else np.ones(shape)).astype(dtype)
    return feeds


def _run(model: Model, stage: ModelStage, feeds: Mapping[str, Tensor], wall_s: float) -> TensorDocument:
    names = stage.graph_outputs
    outputs = model.run(feeds, names.values(), wall_s_max=wall_s)
    return TensorDocument(dict(zip(names, outputs, strict=True)))


def _require_agreement(other: TensorDocument, given: TensorDocument, stage: ModelStage, how: str) -> None:
    agreement = compare_documents(other, given, stage.tolerance)
    if not agreement.agrees:
        raise InvalidModel(
            f"it is not repeatable: {how}, its {agreement.difference}",
            hint="Export it for inference, with nothing random and no training mode; where only providers "
            "differ, widen the stage's tolerance or name fewer providers.",
        )
