"""The published pipelines: the parts of each manifest that the broker needs, in memory.

The broker judges no publisher. It checks that a manifest is whole, and that it carries a signature that names
who made it over exactly these bytes; `signatures` has those that other accounts add. Whether that publisher's
pipelines may run is each worker's decision, made against the key that only the worker's owner chooses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from cachetools import LRUCache
from sqlalchemy import func, select

from tradepost.content import Cid, cid_of_block
from tradepost.errors import (
    InvalidPipeline,
    QuotaExceeded,
    UnknownCid,
    UnknownPipeline,
)
from tradepost.pipeline.manifest import (
    KernelStage,
    Manifest,
    ModelStage,
    check_tolerances,
    decode_manifest,
)
from tradepost.protocol import PipelineView, PublishRequest
from tradepost_broker.content.signatures import add_signatures, served_signatures
from tradepost_broker.content.uploads import Uploads
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import EventWork
from tradepost_broker.market.model.entities import Pipeline
from tradepost_broker.market.model.events import PipelinePublished
from tradepost_broker.market.sifting import LeftOut
from tradepost_broker.storage.disk_space import DiskSpace
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import Publication, Upload
from tradepost_broker.storage.store import Store
from tradepost_signing.checks.verify import claimed_publishers

#: Pipelines that one account may publish.
PIPELINES_MAX: Final = 1_000
_VIEWS_KEPT: Final = 256


class Catalog:
    """The published pipelines. `document_bytes_max` bounds what their inputs and outputs may declare."""

    def __init__(
        self, *, store: Store, uploads: Uploads, engine: Engine, space: DiskSpace, document_bytes_max: int
    ) -> None:
        self._space = space
        self._store = store
        self._uploads = uploads
        self._engine = engine
        self._document_bytes_max = document_bytes_max
        self._views: LRUCache[str, PipelineView] = LRUCache(_VIEWS_KEPT)
        #: One at a time, since each reads the signatures that it adds to.
        self._publishing = asyncio.Lock()
        self._manifests = dict(_readable_manifests(store))

    def manifest(self, pipeline: str) -> Manifest:
        """The manifest of a published pipeline. Raises `UnknownPipeline`."""
        try:
            return self._manifests[pipeline]
        except KeyError:
            raise UnknownPipeline(
                f"pipeline {pipeline} is not published on this broker", pipeline=pipeline
            ) from None

    def view(self, pipeline: str) -> PipelineView:
        """A published pipeline, with what a worker needs to check it. Raises `UnknownPipeline`."""
        if (view := self._views.get(pipeline)) is not None:
            return view
        publication = self._store.get(Publication, pipeline)
        if publication is None:
            raise UnknownPipeline(f"pipeline {pipeline} is not published on this broker", pipeline=pipeline)
        view = self._views[pipeline] = _view(publication)
        return view

    async def publish(self, account: str, request: PublishRequest, *, at: float) -> PipelineView:
        """Publish a pipeline for `account`, once these steps have passed:

        1. The manifest is valid, canonical, and within this broker's limits; it tolerates no more than the
           dtypes of its outputs allow.
        2. Each signature names its key or identity, over exactly this manifest. (Whether it is good is the
           workers' to find.)
        3. Every block of every artifact was uploaded by this account.
        4. If the pipeline was published before, by whatever account, its signatures are those of before and
           these: `signatures.add_signatures`.
        5. The operator has revoked neither it, nor an artifact in it, nor all who signed it.

        Raises `InvalidPipeline` (1, 4), `UnsignedArtifact`, `InvalidBundle` or `InvalidSignature` (2),
        `UnknownCid` (3), `Revoked` (5), `QuotaExceeded` or `DiskFull`.
        """
        self._space.require_for_new_work(len(request.manifest))
        # Step 1
        manifest = decode_manifest(request.manifest)
        self._check_limits(manifest)
        check_tolerances(manifest)
        # Step 2
        claimed_publishers(request.manifest, request.bundle)
        # Step 3
        blocks = await self._artifact_blocks(account, manifest)
        async with self._publishing:
            # Step 4
            cid = cid_of_block(request.manifest, "dag-cbor")
            publication = self._signed(account, cid, request, tuple(blocks), at=at)
            publishers, _ = served_signatures(publication)
            pipeline = facts_for_market(cid, manifest, publishers, sum(blocks.values()))
            # Step 5 is the market's, which knows the list.
            await self._keep(account, publication, pipeline, at=at)
            self._manifests[cid] = manifest
            self._uploads.publish(publication)
            view = self._views[cid] = _view(publication)
        return view

    def _signed(
        self, account: str, cid: Cid, request: PublishRequest, blocks: tuple[str, ...], *, at: float
    ) -> Publication:
        table = CODECS[Publication].table
        # One that is damaged is published again like this.
        found = self._store.find_readable(Publication, select(table).where(table.c.id == cid))
        earlier = next(found, None)
        if earlier is not None:
            return add_signatures(earlier, account, request.bundle)
        self._check_count(account)
        return Publication(
            id=cid,
            account=account,
            at=at,
            manifest=request.manifest,
            bundle=request.bundle,
            blocks=(cid, *blocks),
        )

    async def _keep(self, account: str, publication: Publication, pipeline: Pipeline, *, at: float) -> None:
        # The manifest is a block as well, so that a gateway serves the whole pipeline. Its bytes are in the
        # publication, so it is kept in the same transaction or not at all.
        holder, cid, size_bytes = f"account:{account}", Cid(publication.id), len(publication.manifest)
        block = Upload(id=Upload.key(holder, cid), holder=holder, cid=cid, size_bytes=size_bytes, at=at)
        async with self._uploads.counted(holder, cid, size_bytes):
            await self._engine.ask(
                EventWork(
                    lambda moment: PipelinePublished(at=moment.at, pipeline=pipeline, account=account),
                    publication,
                    block,
                )
            )

    def _check_limits(self, manifest: Manifest) -> None:
        for name in ("input_bytes", "output_bytes"):
            declared = getattr(manifest.limits, name)
            if declared > self._document_bytes_max:
                raise InvalidPipeline(
                    f"limits.{name} is {declared:,}; the broker accepts {self._document_bytes_max:,}",
                    hint=f"Lower limits.{name} in pipeline.toml.",
                )

    async def _artifact_blocks(self, account: str, manifest: Manifest) -> dict[str, int]:
        blocks: dict[str, int] = {}
        for stage in manifest.stages:
            try:
                blocks |= await self._uploads.tree(f"account:{account}", stage.artifact)
            except UnknownCid as error:
                raise UnknownCid(error.detail, stage=stage.name, hint=error.hint, **error.facts) from None
        return blocks

    def _check_count(self, account: str) -> None:
        table = CODECS[Publication].table
        count = self._store.query(select(func.count()).where(table.c.account == account))[0][0]
        if count >= PIPELINES_MAX:
            raise QuotaExceeded(f"{account} has published {count} pipelines", limit=PIPELINES_MAX)


def _readable_manifests(store: Store) -> Iterator[tuple[str, Manifest]]:
    """The manifests by pipeline. One that cannot be read is noted in `store.unreadable`."""
    for publication in store.find_readable(Publication):
        try:
            yield publication.id, decode_manifest(publication.manifest)
        except InvalidPipeline as error:
            store.note_unreadable(LeftOut("publication", publication.id, f"its manifest: {error}"))


def common_providers(manifest: Manifest) -> tuple[str, ...]:
    """The execution providers that every model stage may run on; empty without models.

    Raises `InvalidPipeline` where two models have none in common.
    """
    models = [stage for stage in manifest.stages if isinstance(stage, ModelStage)]
    common = [p for p in models[0].providers if all(p in m.providers for m in models)] if models else []
    if models and not common:
        raise InvalidPipeline(
            "no execution provider is allowed for all models",
            hint="List at least one provider that all models have.",
        )
    return tuple(common)


def facts_for_market(
    cid: Cid, manifest: Manifest, publishers: tuple[str, ...], artifact_bytes: int
) -> Pipeline:
    """What the market needs to know about a pipeline. Raises `InvalidPipeline` as `common_providers` does."""
    return Pipeline(
        id=cid,
        name=manifest.name,
        publisher=publishers[0],
        publishers=publishers,
        artifacts=tuple(manifest.artifacts()),
        providers=common_providers(manifest),
        memory_bytes=max(stage.memory_bytes for stage in manifest.stages),
        artifact_bytes=artifact_bytes,
        wall_s=manifest.limits.wall_ms / 1000,
        work_units_base=manifest.work_units.base,
        work_units_per_mebibyte=manifest.work_units.per_mebibyte,
        kernel_stages=tuple(stage.name for stage in manifest.stages if isinstance(stage, KernelStage)),
    )


def _view(publication: Publication) -> PipelineView:
    _, bundle = served_signatures(publication)
    return PipelineView(pipeline=publication.id, manifest=publication.manifest, bundle=bundle)
