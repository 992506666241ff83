"""REST for the operator, by the operator's token: the workers' join tokens, devices and revocations."""

from __future__ import annotations

from aiohttp import web

from tradepost_broker.access.joining import JoinService
from tradepost_broker.access.revocations import RevocationService
from tradepost_broker.operator.messages import (
    DeviceView,
    EnforcedRevocations,
    IssuedToken,
    NewRevocations,
    NewToken,
)
from tradepost_broker.reporting.device_readings import DeviceReadings
from tradepost_broker.streams.sessions import Sessions
from tradepost_broker.web.endpoints import Access, Endpoint, read_body, reply
from tradepost_broker.web.request_bodies import DOCUMENT_BODY_BYTES_MAX
from tradepost_signing.policy.revocation_store import SignedRevocations


class FleetEndpoints:
    """The operator's endpoints for workers' devices."""

    def __init__(
        self,
        *,
        joins: JoinService,
        revocations: RevocationService,
        sessions: Sessions,
        devices: DeviceReadings,
    ) -> None:
        self._joins = joins
        self._revocations = revocations
        self._sessions = sessions
        self._devices = devices

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        operator = Access.OPERATOR
        return [
            Endpoint(
                method="POST",
                path="/v1/admin/tokens",
                handler=self.issue_token,
                access=operator,
                body=NewToken,
                reply=IssuedToken,
                status=201,
            ),
            Endpoint(
                method="POST",
                path="/v1/admin/revocations",
                handler=self.revoke,
                access=operator,
                body=NewRevocations,
                body_bytes_max=DOCUMENT_BODY_BYTES_MAX,
                reply=EnforcedRevocations,
            ),
            Endpoint(
                method="GET",
                path="/v1/admin/devices",
                handler=self.devices,
                access=operator,
                reply=list[DeviceView],
            ),
        ]

    async def issue_token(self, request: web.Request) -> web.StreamResponse:
        """A join token that admits one device."""
        body = await read_body(request, NewToken)
        token, expires_at = await self._joins.issue(
            owner=body.owner,
            stake_microcredits=body.stake_microcredits,
            auditor=body.auditor,
            ttl_s=body.ttl_s,
        )
        return reply(IssuedToken(token=token, owner=body.owner, expires_at=expires_at), status=201)

    async def devices(self, request: web.Request) -> web.StreamResponse:
        """How workers' devices are, by their newest heartbeats, newest first; it has no effect on money."""
        return reply(self._devices.all())

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Enforce a signed revocation list, and send it to every worker. Its version must be higher."""
        body = await read_body(request, NewRevocations)
        version = await self._revocations.accept(SignedRevocations(body.document, body.bundle))
        return reply(EnforcedRevocations(version=version, workers=len(self._sessions)))
