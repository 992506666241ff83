"""REST for pipelines: publish one, list them, get one with its signature."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from tradepost.protocol import PipelineView, PublishRequest
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.market.model.entities import Pipeline
from tradepost_broker.reporting.views import PipelineSummary
from tradepost_broker.storage.store import Store
from tradepost_broker.web.endpoints import ACCOUNT, Access, Endpoint, read_body, reply
from tradepost_broker.web.request_bodies import DOCUMENT_BODY_BYTES_MAX


class PipelineEndpoints:
    """The catalog. What is published is public: workers of any owner must be able to check it.

    `publications` limits how often one account may publish, or change signatures.
    """

    def __init__(
        self, *, catalog: Catalog, store: Store, clock: Callable[[], float], publications: RateLimit
    ) -> None:
        self._publications = publications
        self._catalog = catalog
        self._store = store
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        every, one = "/v1/pipelines", "/v1/pipelines/{cid}"
        return [
            Endpoint(
                method="POST",
                path=every,
                handler=self.publish,
                access=Access.ACCOUNT,
                body=PublishRequest,
                body_bytes_max=DOCUMENT_BODY_BYTES_MAX,
                reply=PipelineView,
                status=201,
            ),
            Endpoint(method="GET", path=every, handler=self.list, reply=list[PipelineSummary]),
            Endpoint(method="GET", path=one, handler=self.show, reply=PipelineView),
        ]

    async def publish(self, request: web.Request) -> web.StreamResponse:
        """Publish a signed pipeline whose blocks this account has uploaded. They are public from then on."""
        self._publications.take(request[ACCOUNT], "publications of one account")
        body = await read_body(request, PublishRequest)
        view = await self._catalog.publish(request[ACCOUNT], body, at=self._clock())
        return reply(view, status=201, headers={"Location": f"/v1/pipelines/{view.pipeline}"})

    async def list(self, request: web.Request) -> web.StreamResponse:
        """Every published pipeline."""
        return reply(
            [
                PipelineSummary(
                    pipeline=one.id,
                    name=one.name,
                    publisher=one.publisher,
                    publishers=one.publishers or (one.publisher,),
                    work_units_base=one.work_units_base,
                )
                for one in self._store.find_readable(Pipeline)
            ]
        )

    async def show(self, request: web.Request) -> web.StreamResponse:
        """A published pipeline: manifest and signature, for everyone to check for themselves."""
        return reply(self._catalog.view(request.match_info["cid"]))
