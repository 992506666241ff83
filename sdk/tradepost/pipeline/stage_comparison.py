"""Compares two runs of one pipeline on one input, stage by stage, by the hashes in their receipts.

A kernel gives the same bytes wherever it runs. So if all that went into a kernel was equal in two runs, and
its output is not, one of the runs did something else: that is proof, whatever the outputs of later stages
are. A model may differ between execution providers, within its tolerance. Hashes cannot tell by how much, so
its output has to be revealed; as long as nobody asks for that, the pipeline's outputs are compared, each
within the tolerance of the models that differ on the way to it. What goes into a stage after a differing one
is not known to be equal, so that stage is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tradepost.pipeline.agreement import Agreement
from tradepost.pipeline.manifest import INPUT, KernelStage, Manifest, ModelStage, Stage, split_reference
from tradepost.pipeline.tolerances import Tolerance

#: A receipt's stages: each with the hash of its output, in order.
StageHashes = Iterable[tuple[str, str]]


class StageVerdict(StrEnum):
    """What the hashes of two runs say."""

    EQUAL = "equal"
    PROOF = "proof"  # a kernel gave other bytes from the same bytes
    NEEDS_REVEAL = "needs-reveal"  # a model did: its output tells whether that is within its tolerance


class StageMatch(StrEnum):
    """What the hashes of two runs say about one stage."""

    EQUAL = "equal"
    DIFFERS = "differs"  # though everything that went into it was equal
    FOLLOWS = "follows"  # it comes after a stage that differs, so that this is no finding about it
    ABSENT = "absent"  # one of the runs did not come so far


@dataclass(frozen=True, slots=True)
class StageComparison:
    """`verdict` on two runs. `stage` is the first that differs from equal inputs, "" if none does.

    Where a kernel does, it is the first such kernel, though a model before it may differ as well. `kind` is
    its kind, `kernel` or `model`. `matches` has every stage of the pipeline.
    """

    verdict: StageVerdict
    stage: str
    kind: str
    matches: Mapping[str, StageMatch]


def compare_stages(manifest: Manifest, run: StageHashes, other: StageHashes) -> StageComparison:
    """Compare two runs by (stage, output hash); the order of the two does not matter.

    Runs that stopped early are compared as far as both came.
    """
    ours, theirs = dict(run), dict(other)
    equal, matches = {INPUT}, dict[str, StageMatch]()
    first: dict[str, str] = {}
    for stage in manifest.stages:
        if stage.name not in ours or stage.name not in theirs:
            matches[stage.name] = StageMatch.ABSENT
        elif ours[stage.name] == theirs[stage.name]:
            matches[stage.name] = StageMatch.EQUAL
            equal.add(stage.name)
        elif _sources(stage) <= equal:
            matches[stage.name] = StageMatch.DIFFERS
            first.setdefault("kernel" if isinstance(stage, KernelStage) else "model", stage.name)
        else:
            matches[stage.name] = StageMatch.FOLLOWS
    if "kernel" in first:
        return StageComparison(StageVerdict.PROOF, first["kernel"], "kernel", matches)
    if "model" in first:
        return StageComparison(StageVerdict.NEEDS_REVEAL, first["model"], "model", matches)
    return StageComparison(StageVerdict.EQUAL, "", "", matches)


def output_tolerances(manifest: Manifest, comparison: StageComparison) -> dict[str, Tolerance | None]:
    """By how much each output of the pipeline may differ between two runs; `None` if it must be equal.

    Only models that differ, and that the output depends on, make room, each for what comes out of it: so if
    the last model alone differs, no other model's tolerance counts.
    """
    room: dict[str, Tolerance | None] = {INPUT: None}
    for stage in manifest.stages:
        tolerances = [room[source] for source in sorted(_sources(stage))]
        if isinstance(stage, ModelStage):
            tolerances.append(stage.tolerance)
        is_equal = comparison.matches[stage.name] is StageMatch.EQUAL
        room[stage.name] = None if is_equal else _loosest(tolerances)
    return {name: room[split_reference(reference)[0]] for name, reference in manifest.outputs.items()}


def stage_at_fault(manifest: Manifest, comparison: StageComparison, outputs: Agreement) -> tuple[str, bool]:
    """The stage at fault in two runs whose `outputs` disagree, "" if unknown, and whether that is proof.

    It is proof as well if an output differs whose stage gave the same bytes in both runs: then one of them
    returned another output than that to which it has committed.
    """
    if comparison.verdict is StageVerdict.PROOF:
        return comparison.stage, True
    sources = {split_reference(reference)[0] for reference in manifest.outputs.values()} - {INPUT}
    if outputs.tensor:
        source = split_reference(manifest.outputs[outputs.tensor])[0]
        feeding = {source} - {INPUT}
        named = manifest.source_of(outputs.tensor)
    else:  # the metadata, which come from every stage that feeds the outputs
        feeding = sources
        named = next((stage.name for stage in reversed(manifest.stages) if stage.name in sources), "")
    if all(comparison.matches[one] is StageMatch.EQUAL for one in feeding):
        return named, True
    return comparison.stage, False


def _sources(stage: Stage) -> set[str]:
    return {split_reference(reference)[0] for reference in stage.inputs.values()}


def _loosest(tolerances: Iterable[Tolerance | None]) -> Tolerance | None:
    known = [one for one in tolerances if one is not None]
    if not known:
        return None
    return Tolerance(atol=max(one.atol for one in known), rtol=max(one.rtol for one in known))
