"""The dashboard's pages about pipelines: the list, and each of them. What is published is public."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiohttp import web

from tradepost.errors import InvalidRequest, UnknownPipeline
from tradepost.pipeline.manifest import ModelStage, Stage, split_reference
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.market.model.entities import Pipeline
from tradepost_broker.reporting.pipeline_lists import page_of_pipelines
from tradepost_broker.reporting.recent_activity import JOBS_MAX, EndedJob, RecentActivity, prices_of
from tradepost_broker.storage.store import Store
from tradepost_broker.web.endpoints import Endpoint, read_limit
from tradepost_broker.web.page_replies import PageReplies, twin_of, version_of
from tradepost_reputation.dashboard import (
    ListedPipelineView,
    PipelinePageView,
    PipelinesPageView,
    StageView,
)

_ROWS: Final = 50
_ROWS_MAX: Final = 200
_FIND_CHARS_MAX: Final = 64
_LIST_TWIN: Final = "/v1/dashboard/pipelines.json"


class PipelinePageEndpoints:
    """Published pipelines, for people."""

    def __init__(
        self, *, store: Store, catalog: Catalog, activity: RecentActivity, replies: PageReplies
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._activity = activity
        self._replies = replies

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        one, html = "/v1/dashboard/pipelines/{pipeline}.json", "text/html"
        return [
            Endpoint(method="GET", path="/pipelines", handler=self.list_page, reply=bytes, media=html),
            Endpoint(method="GET", path="/pipelines/{pipeline}", handler=self.page, reply=bytes, media=html),
            Endpoint(method="GET", path=_LIST_TWIN, handler=self.list_twin, reply=PipelinesPageView),
            Endpoint(method="GET", path=one, handler=self.twin, reply=PipelinePageView),
        ]

    async def list_page(self, request: web.Request) -> web.StreamResponse:
        """Pipelines, for people: `find`, and `after` for the next page."""
        return self._replies.page(request, await self._list(request), twin=_LIST_TWIN)

    async def list_twin(self, request: web.Request) -> web.StreamResponse:
        """The content of a page of pipelines; with `fields=version`, only whether it has changed."""
        return twin_of(request, await self._list(request))

    async def page(self, request: web.Request) -> web.StreamResponse:
        """A pipeline's stages, limits, signers and recent prices, for people."""
        view = await self._view(request)
        return self._replies.page(request, view, twin=f"/v1/dashboard/pipelines/{view.pipeline}.json")

    async def twin(self, request: web.Request) -> web.StreamResponse:
        """The content of a pipeline's page; with `fields=version`, only whether it has changed."""
        return twin_of(request, await self._view(request))

    async def _list(self, request: web.Request) -> PipelinesPageView:
        find, after = request.query.get("find", "").strip(), request.query.get("after", "")
        if len(find) > _FIND_CHARS_MAX:
            raise InvalidRequest(f"find has {len(find)} characters; it may have {_FIND_CHARS_MAX}")
        if after and self._store.get(Pipeline, after) is None:
            raise InvalidRequest(
                f"after is {after[:20]!r}, which is no pipeline", hint="Pass the `after` of the page before."
            )
        count = read_limit(request, _ROWS, _ROWS_MAX)
        page = page_of_pipelines(self._store, find=find, after=after, count=count)
        jobs = await self._activity.jobs()
        shown = tuple(_listed(one, [job for job in jobs if job.pipeline == one.id]) for one in page.pipelines)
        return PipelinesPageView(
            version=version_of(shown, page.found),
            found=page.found,
            find=find,
            recent_max=JOBS_MAX,
            pipelines=shown,
            after=page.after,
        )

    async def _view(self, request: web.Request) -> PipelinePageView:
        cid = request.match_info["pipeline"]
        manifest, pipeline = self._catalog.manifest(cid), self._store.get(Pipeline, cid)
        if pipeline is None:
            raise UnknownPipeline(f"pipeline {cid} is not published on this broker", pipeline=cid)
        jobs = [job for job in await self._activity.jobs() if job.pipeline == cid]
        prices = prices_of(jobs, jobs[0].capability) if jobs else None
        signers = pipeline.publishers or (pipeline.publisher,)
        return PipelinePageView(
            version=version_of(cid, signers, prices),
            pipeline=cid,
            name=manifest.name,
            edition=manifest.version,
            description=manifest.description,
            stages=tuple(map(_stage, manifest.stages)),
            outputs=_sources(manifest.outputs.values()),
            wall_ms=manifest.limits.wall_ms,
            input_bytes_max=manifest.limits.input_bytes,
            output_bytes_max=manifest.limits.output_bytes,
            work_units_base=manifest.work_units.base,
            work_units_per_mebibyte=manifest.work_units.per_mebibyte,
            signers=signers,
            recent_max=JOBS_MAX,
            prices=prices,
        )


def _listed(pipeline: Pipeline, jobs: list[EndedJob]) -> ListedPipelineView:
    prices = prices_of(jobs, "")
    return ListedPipelineView(
        pipeline=pipeline.id,
        name=pipeline.name,
        publisher=pipeline.publisher,
        signers=len(pipeline.publishers) or 1,
        work_units_base=pipeline.work_units_base,
        work_units_per_mebibyte=pipeline.work_units_per_mebibyte,
        recent_jobs=len(jobs),
        recent_price_microcredits=None if prices is None else prices.median_microcredits,
    )


def _stage(stage: Stage) -> StageView:
    model = stage if isinstance(stage, ModelStage) else None
    return StageView(
        name=stage.name,
        kind="kernel" if model is None else "model",
        artifact=stage.artifact,
        sources=_sources(stage.inputs.values()),
        providers=() if model is None else model.providers,
        tolerance="" if model is None else f"{model.tolerance.atol:g}, {model.tolerance.rtol:g}",
        memory_bytes=stage.memory_bytes,
    )


def _sources(references: Iterable[str]) -> tuple[str, ...]:
    """The stages that references name, each once."""
    return tuple(dict.fromkeys(split_reference(one)[0] for one in references))
