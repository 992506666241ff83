"""How a new result compares with the earlier ones of its job: stage by stage, then by its output.

Hashes come first, since they cost nothing: a kernel that gave other bytes from the same bytes is proof, and
no tolerance excuses it. Only if they leave it open are documents compared, outside of any turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from tradepost.pipeline.agreement import Agreement
from tradepost.pipeline.manifest import Manifest
from tradepost.pipeline.stage_comparison import (
    StageComparison,
    StageVerdict,
    compare_stages,
    output_tolerances,
    stage_at_fault,
)
from tradepost.pipeline.tolerances import Tolerance
from tradepost_broker.market.model.entities import Lease, is_failure
from tradepost_broker.storage.shell_records import Delivery

#: Compares an output with that of a lease whose result is durable, each tensor within its tolerance.
CompareOutputs = Callable[[Delivery, str, Mapping[str, Tolerance | None]], Awaitable[Agreement]]


@dataclass(frozen=True, slots=True)
class ResultAgreement:
    """Whether two results agree, and how much of the tolerance that takes (0 to 1).

    If not, `proof` is the stage that gave other bytes though it cannot have, "" if that is not known.
    """

    agrees: bool
    share: float = 0.0
    proof: str = ""


class ResultComparison:
    """Compares one result, which has these stages, with others of its job; each pair of documents once."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        outcome: str,
        stage_hashes: tuple[tuple[str, str], ...],
        compare_outputs: CompareOutputs,
    ) -> None:
        self._manifest = manifest
        self._outcome = outcome
        self._stage_hashes = stage_hashes
        self._compare_outputs = compare_outputs
        #: By lease: how the documents agree, as far as they have been compared.
        self._outputs: dict[str, Agreement] = {}

    def needs_documents(self, other: Lease) -> bool:
        """Whether only the documents can tell if both results agree, and they have not been compared."""
        if other.id in self._outputs or other.outcome == self._outcome:
            return False
        if is_failure(self._outcome) or is_failure(other.outcome):
            return False
        return self._stages(other).verdict is not StageVerdict.PROOF

    async def compare_documents(self, delivery: Delivery, other: Lease) -> None:
        """Compare the output in `delivery`, which is this result's, with that of another lease."""
        tolerances = output_tolerances(self._manifest, self._stages(other))
        self._outputs[other.id] = await self._compare_outputs(delivery, other.id, tolerances)

    def agreement(self, other: Lease) -> ResultAgreement:
        """How both results agree, once their documents were compared if that was needed."""
        stages = self._stages(other)
        if stages.verdict is StageVerdict.PROOF:
            return ResultAgreement(False, proof=stages.stage)
        if other.outcome == self._outcome:
            return ResultAgreement(True)
        outputs = self._outputs.get(other.id)
        if outputs is None or outputs.agrees:
            return ResultAgreement(outputs is not None, share=outputs.share if outputs is not None else 0.0)
        stage, is_proof = stage_at_fault(self._manifest, stages, outputs)
        return ResultAgreement(False, proof=stage if is_proof else "")

    def _stages(self, other: Lease) -> StageComparison:
        return compare_stages(self._manifest, self._stage_hashes, other.stage_hashes)
