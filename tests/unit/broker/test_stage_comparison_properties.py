"""For any pipeline: no honest pair is contradicted, and each change of a stage is blamed on that stage.

Kernels are exact. Models add noise that depends on the execution provider and takes at most an equal share of
their tolerance, so that what reaches an output stays within the loosest tolerance on the way to it. No stage
makes a difference larger: beyond that, the outputs alone cannot tell (`docs/verification.md`, "Limits").
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from tradepost.pipeline.agreement import Agreement, compare_documents
from tradepost.pipeline.manifest import (
    INPUT,
    KernelStage,
    Manifest,
    ModelStage,
    Stage,
    TensorSpec,
    Tolerance,
    check_connections,
    split_reference,
)
from tradepost.pipeline.stage_comparison import StageVerdict, compare_stages
from tradepost.pipeline.tensors import Tensor, TensorDocument, encode
from tradepost.receipts import document_hash
from tradepost_broker.jobs.result_comparison import ResultAgreement, ResultComparison
from tradepost_broker.market.model.entities import Lease, LeasePurpose, LeaseState
from tradepost_broker.storage.shell_records import Delivery

CID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
VALUES = np.array([-2.0, -0.25, 0.0, 0.25, 2.0], np.float32)
#: What a stage does to the largest of its inputs; none makes two inputs differ more than they did.
STEPS = (np.negative, np.abs, np.flip, lambda x: np.clip(x, -1, 1), lambda x: np.roll(x, 1))
PROVIDERS = ("cpu", "cuda", "openvino")


@st.composite
def pipelines(draw: st.DrawFn) -> Manifest:
    stages: list[Stage] = []
    for number in range(draw(st.integers(1, 6))):
        earlier = [INPUT, *(stage.name for stage in stages)]
        sources = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=2, unique=True))
        inputs = {f"in{place}": f"{source}.x" for place, source in enumerate(sources)}
        name = f"s{number}"
        if draw(st.booleans()):
            stages.append(KernelStage(name=name, artifact=CID, inputs=inputs, outputs=("x",)))
        else:
            atol = draw(st.sampled_from([1e-5, 1e-4, 1e-3]))
            tolerance = Tolerance(atol=atol, rtol=0)
            stages.append(
                ModelStage(name=name, artifact=CID, inputs=inputs, outputs=("x",), tolerance=tolerance)
            )
    names = [INPUT, *(stage.name for stage in stages)]
    feeding = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    manifest = Manifest(
        name="any",
        version="1",
        inputs={"x": TensorSpec(dtype="F32", shape=(None,))},
        stages=tuple(stages),
        outputs={f"from-{name}": f"{name}.x" for name in feeding},
    )
    check_connections(manifest)
    return manifest


@dataclass(frozen=True)
class Run:
    """What one worker returned, and the stages that its receipt commits to."""

    documents: Mapping[str, Tensor]
    output: TensorDocument
    stage_hashes: tuple[tuple[str, str], ...]

    @property
    def outcome(self) -> str:
        return document_hash(encode(self.output))


def run(
    manifest: Manifest, provider: str, *, changed: str = "", by: float = 0.0, is_hidden: bool = False
) -> Run:
    """An honest run on a provider, or one in which the first value of a stage's output is `changed`.

    If that `is_hidden`, the receipt commits to an honest run.
    """
    models = sum(isinstance(stage, ModelStage) for stage in manifest.stages)
    documents: dict[str, Tensor] = {INPUT: VALUES}
    for number, stage in enumerate(manifest.stages):
        sources = [documents[split_reference(reference)[0]] for reference in stage.inputs.values()]
        made = STEPS[number % len(STEPS)](np.maximum.reduce(sources))
        if isinstance(stage, ModelStage):
            noise = 0.9 * stage.tolerance.atol / models / 2 * (PROVIDERS.index(provider) - 1)
            made = made + np.float32(noise)
        if stage.name == changed:
            made = made.copy()
            made[0] += np.float32(by)
        documents[stage.name] = np.ascontiguousarray(made, dtype=np.float32)
    outputs = {name: documents[split_reference(reference)[0]] for name, reference in manifest.outputs.items()}
    committed = run(manifest, provider).documents if is_hidden else documents
    hashes = tuple(
        (stage.name, document_hash(encode(TensorDocument({"x": committed[stage.name]}))))
        for stage in manifest.stages
    )
    return Run(documents, TensorDocument(outputs), hashes)


def compared(manifest: Manifest, newest: Run, earlier: Run, *, is_reference: bool) -> ResultAgreement:
    """What the broker finds when `newest` is delivered after `earlier`."""

    async def compare_outputs(_: Delivery, __: str, tolerances: Mapping[str, Tolerance | None]) -> Agreement:
        return compare_documents(earlier.output, newest.output, tolerances, has_reference=is_reference)

    lease = Lease(
        id="earlier",
        job="j",
        worker="w",
        attempt=1,
        purpose=LeasePurpose.AUCTION,
        price_microcredits=1,
        nonce=b"",
        granted_at=0.0,
        expires_at=9.0,
        state=LeaseState.DELIVERED,
        outcome=earlier.outcome,
        stage_hashes=earlier.stage_hashes,
    )
    delivery = Delivery(id="newest", payload=b"", public_key=b"", signature=b"", output=None, output_cid="")
    comparison = ResultComparison(
        manifest=manifest,
        outcome=newest.outcome,
        stage_hashes=newest.stage_hashes,
        compare_outputs=compare_outputs,
    )
    if comparison.needs_documents(lease):
        asyncio.run(comparison.compare_documents(delivery, lease))
    return comparison.agreement(lease)


@pytest.mark.extended
@given(pipelines(), st.sampled_from(PROVIDERS), st.sampled_from(PROVIDERS), st.booleans())
def test_no_honest_pair_is_contradicted(
    manifest: Manifest, provider: str, other: str, is_reference: bool
) -> None:
    newest, earlier = run(manifest, provider), run(manifest, other)
    event("one provider" if provider == other else "two providers")
    found = compared(manifest, newest, earlier, is_reference=is_reference)
    assert found.agrees
    assert found.share <= 1


@pytest.mark.extended
@given(pipelines(), st.data(), st.sampled_from(PROVIDERS), st.booleans())
def test_a_change_of_a_stage_is_blamed_on_that_stage(
    manifest: Manifest, data: st.DataObject, provider: str, is_reference: bool
) -> None:
    """Of a kernel by however little, and of a model by more than its tolerance."""
    stage = data.draw(st.sampled_from(manifest.stages))
    is_kernel = isinstance(stage, KernelStage)
    least = 1e-6 if isinstance(stage, KernelStage) else stage.tolerance.atol * 1.5
    by = least * data.draw(st.sampled_from([1, 3, 1000]))
    honest, changed = run(manifest, provider), run(manifest, provider, changed=stage.name, by=by)
    assume(not np.array_equal(honest.documents[stage.name], changed.documents[stage.name]))
    stages = compare_stages(manifest, changed.stage_hashes, honest.stage_hashes)
    assert stages.verdict is (StageVerdict.PROOF if is_kernel else StageVerdict.NEEDS_REVEAL)
    assert stages.stage == stage.name
    found = compared(manifest, honest, changed, is_reference=is_reference)
    event("kernel" if is_kernel else "model")
    if is_kernel:
        assert found == ResultAgreement(False, proof=stage.name)
    elif f"from-{stage.name}" in manifest.outputs:
        assert found == ResultAgreement(False), "a model is no proof before its output is revealed"


@pytest.mark.extended
@given(pipelines(), st.data(), st.sampled_from(PROVIDERS), st.sampled_from(PROVIDERS))
def test_a_kernel_whose_sources_no_model_feeds_is_proof_on_any_provider(
    manifest: Manifest, data: st.DataObject, provider: str, other: str
) -> None:
    exact = {INPUT}
    for stage in manifest.stages:
        sources = {split_reference(reference)[0] for reference in stage.inputs.values()}
        if isinstance(stage, KernelStage) and sources <= exact:
            exact.add(stage.name)
    assume(len(exact) > 1)
    name = data.draw(st.sampled_from(sorted(exact - {INPUT})))
    honest, changed = run(manifest, provider), run(manifest, other, changed=name, by=1e-6)
    assume(not np.array_equal(honest.documents[name], changed.documents[name]))
    assert compared(manifest, honest, changed, is_reference=True) == ResultAgreement(False, proof=name)


@pytest.mark.extended
@given(pipelines(), st.data(), st.sampled_from(PROVIDERS))
def test_an_output_that_its_receipt_does_not_commit_to_is_proof(
    manifest: Manifest, data: st.DataObject, provider: str
) -> None:
    """The attack: the hashes of an honest run, and another output, however near."""
    sources = {split_reference(reference)[0] for reference in manifest.outputs.values()} - {INPUT}
    assume(bool(sources))
    name = data.draw(st.sampled_from(sorted(sources)))
    honest = run(manifest, provider)
    changed = run(manifest, provider, changed=name, by=1e-6, is_hidden=True)
    assume(honest.outcome != changed.outcome)
    found = compared(manifest, changed, honest, is_reference=True)
    assert not found.agrees
    assert found.proof in {stage.name for stage in manifest.stages}
