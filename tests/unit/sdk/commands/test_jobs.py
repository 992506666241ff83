"""`tradepost jobs pipeline` shows what it promises: inputs, stages, outputs and limits."""

from __future__ import annotations

from tradepost.commands.jobs import describe_pipeline
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    PipelineLimits,
    TensorSpec,
)

KERNEL, MODEL = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", "bafkreia"


def test_a_pipeline_is_shown_with_its_limits_and_those_of_each_stage() -> None:
    manifest = Manifest(
        name="sample",
        version="1.0",
        inputs={"x": TensorSpec(dtype="F32", shape=(None, 4))},
        stages=(
            KernelStage(
                name="scale",
                artifact=KERNEL,
                inputs={"x": "input.x"},
                outputs=("x",),
                fuel=5_000,
                memory_bytes=1 << 20,
            ),
            ModelStage(name="double", artifact=MODEL, inputs={"x": "scale.x"}, outputs=("y",)),
        ),
        outputs={"y": "double.y"},
        limits=PipelineLimits(wall_ms=1_500, input_bytes=2_000, output_bytes=3_000),
    )
    lines = list(describe_pipeline(manifest))
    assert f"  kernel  scale: {KERNEL} (1,048,576 bytes of memory, 5,000 fuel)" in lines
    assert any(line.startswith(f"  model   double: {MODEL} (") and "fuel" not in line for line in lines)
    assert lines[-1] == "  limits  1.5 s, an input of 2,000 bytes, an output of 3,000 bytes"
