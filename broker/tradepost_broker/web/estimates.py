"""REST for submitters: what a job would cost, before it is submitted."""

from __future__ import annotations

from aiohttp import web

from tradepost.protocol import EstimateRequest, EstimateView
from tradepost_broker.access.caller_limits import RateLimit
from tradepost_broker.content.catalog import Catalog
from tradepost_broker.market import Market
from tradepost_broker.web.endpoints import ACCOUNT, Access, Endpoint, read_body, reply


class EstimateEndpoints:
    """Estimates for accounts. `estimates` limits how many one account gets: each takes a few milliseconds."""

    def __init__(self, *, market: Market, catalog: Catalog, estimates: RateLimit) -> None:
        self._market = market
        self._catalog = catalog
        self._estimates = estimates

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        return [
            Endpoint(
                method="POST",
                path="/v1/estimate",
                handler=self.estimate,
                access=Access.ACCOUNT,
                body=EstimateRequest,
                reply=EstimateView,
            )
        ]

    async def estimate(self, request: web.Request) -> web.StreamResponse:
        """What a job would cost now, how long it would take, and how sure its result could be."""
        account = request[ACCOUNT]
        self._estimates.take(account, "estimates of one account")
        asked = await read_body(request, EstimateRequest)
        self._catalog.manifest(asked.pipeline).check_input_bytes(asked.input_bytes)
        return reply(self._market.estimate(account, asked))
