"""REST for the operator: where the event loop stood still."""

from __future__ import annotations

from aiohttp import web

from tradepost_broker.operator.messages import StallView
from tradepost_broker.reporting.loop_stalls import LoopStalls
from tradepost_broker.web.endpoints import Access, Endpoint, reply


class StallEndpoints:
    """The operator's endpoint for stalls."""

    def __init__(self, *, stalls: LoopStalls) -> None:
        self._stalls = stalls

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        return [
            Endpoint(
                method="GET",
                path="/v1/admin/stalls",
                handler=self.stalls,
                access=Access.OPERATOR,
                reply=list[StallView],
            )
        ]

    async def stalls(self, request: web.Request) -> web.StreamResponse:
        """Where the broker's event loop stood still for too long since the start, the longest first."""
        return reply(self._stalls.all())
