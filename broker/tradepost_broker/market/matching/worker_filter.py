"""Which workers a job's requirements leave out, beyond what whole buckets of offers tell."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from packaging.version import InvalidVersion, Version

from tradepost.errors import InvalidRequest
from tradepost.protocol import Requirements
from tradepost_broker.market.model.entities import Pipeline
from tradepost_broker.market.state.worker_state import WorkerState

#: Why a worker may not have a job, in the words of explanations.
OWNER_NOT_ALLOWED: Final = "owner not allowed"
ENGINE_BELOW: Final = "engine below the requirement"
SCORE_BELOW: Final = "score below the requirement"


class WorkerFilter:
    """The requirements of one job that each worker is judged by."""

    def __init__(self, requirements: Requirements) -> None:
        #: The only owners that may have the job; empty if any may.
        self.owners_only = tuple(dict.fromkeys(requirements.owners_only or ()))
        self._excluded = frozenset(requirements.owners_excluded or ())
        self._floors = requirements.engines or ()
        self._score_min = requirements.score_min or 0.0

    def why_not(self, worker: WorkerState) -> str:
        """Why the worker's owner or engines leave it out; "" if they do not."""
        owner = worker.record.owner
        if owner in self._excluded or (self.owners_only and owner not in self.owners_only):
            return OWNER_NOT_ALLOWED
        if self._floors:
            offer = worker.record.offer
            engines = {} if offer is None else offer.capabilities.engines
            if not all(is_at_least(engines.get(one.engine, ""), one.version) for one in self._floors):
                return ENGINE_BELOW
        return ""

    @property
    def judges_scores(self) -> bool:
        """Whether the score counts."""
        return self._score_min > 0

    def is_score_enough(self, score: float) -> bool:
        """Whether a worker with this score may have the job."""
        return score >= self._score_min


@lru_cache(maxsize=4096)
def is_at_least(version: str, floor: str) -> bool:
    """Whether a version is so new; one that cannot be read is not."""
    try:
        return Version(version) >= Version(floor)
    except InvalidVersion:
        return False


def check_providers(pipeline: Pipeline, requirements: Requirements) -> None:
    """Raise `InvalidRequest` if the pipeline runs on none of the providers that are required."""
    required = requirements.providers or ()
    if required and pipeline.providers and set(required).isdisjoint(pipeline.providers):
        raise InvalidRequest(
            f"the job requires {' or '.join(required)}; pipeline {pipeline.id} runs on "
            f"{' or '.join(pipeline.providers)}",
            hint="Require one of the pipeline's execution providers, or none.",
        )
