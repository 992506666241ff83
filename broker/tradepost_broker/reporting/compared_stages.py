"""How the stages of a job's results compare with those of the result that its submitter got."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from tradepost.errors import InvalidPipeline
from tradepost.pipeline.manifest import KernelStage, Manifest, decode_manifest
from tradepost.pipeline.stage_comparison import StageComparison, StageMatch, compare_stages
from tradepost_broker.market.model.entities import Job, Lease, LeaseState
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import Publication
from tradepost_broker.storage.store import Reader
from tradepost_reputation.dashboard import ComparedStageView


def compared_stages(
    store: Reader, job: Job, leases: Iterable[Lease]
) -> dict[str, tuple[ComparedStageView, ...]]:
    """By lease: its stages, compared with those of the job's result; of leases that had a verdict.

    None where the job has no result, or its pipeline can no longer be read.
    """
    judged = [one for one in leases if one.state in (LeaseState.ACCEPTED, LeaseState.REJECTED)]
    result = next((one for one in judged if one.id in job.accepted[:1]), None)
    manifest = _manifest(store, job.pipeline) if result is not None else None
    if result is None or manifest is None:
        return {}
    return {
        lease.id: _views(
            manifest,
            compare_stages(manifest, lease.stage_hashes, result.stage_hashes),
            is_accepted=lease.state is LeaseState.ACCEPTED,
        )
        for lease in judged
        if lease is not result
    }


def _manifest(store: Reader, pipeline: str) -> Manifest | None:
    table = CODECS[Publication].table
    found = store.find_readable(Publication, select(table).where(table.c.id == pipeline))
    try:
        return next((decode_manifest(one.manifest) for one in found), None)
    except InvalidPipeline:  # it was reported at the start, with the records that cannot be read
        return None


def _views(
    manifest: Manifest, comparison: StageComparison, *, is_accepted: bool
) -> tuple[ComparedStageView, ...]:
    views = []
    for stage in manifest.stages:
        match, is_kernel = comparison.matches[stage.name], isinstance(stage, KernelStage)
        words = match.value
        if match is StageMatch.DIFFERS and is_kernel:
            words = "contradicts"
        elif match is StageMatch.DIFFERS and is_accepted:
            words = "within tolerance"
        views.append(
            ComparedStageView(stage=stage.name, kind="kernel" if is_kernel else "model", match=words)
        )
    return tuple(views)
