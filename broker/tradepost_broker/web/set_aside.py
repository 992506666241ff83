"""REST for the operator: what the broker could not process, and letting it be tried again."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from sqlalchemy import select

from tradepost.errors import InvalidRequest
from tradepost_broker.engine.core_recovery import CoreRecovery
from tradepost_broker.engine.engine import Engine
from tradepost_broker.engine.work import Delete
from tradepost_broker.operator.messages import Readmission, SetAsideView
from tradepost_broker.storage.rows import CODECS
from tradepost_broker.storage.shell_records import SetAside, SetAsideKind
from tradepost_broker.storage.store import Deletion, Store
from tradepost_broker.web.endpoints import Access, Endpoint, read_body, reply

SHOWN_MAX: Final = 1_000
_FORGET: Final = "DELETE FROM set_aside WHERE id = ?"


class SetAsideEndpoints:
    """The operator's endpoints for what was set aside."""

    def __init__(self, *, engine: Engine, store: Store, recovery: CoreRecovery) -> None:
        self._engine = engine
        self._store = store
        self._recovery = recovery

    def endpoints(self) -> list[Endpoint]:
        """What is served."""
        path = "/v1/admin/set-aside"
        return [
            Endpoint(
                method="GET",
                path=path,
                handler=self.show,
                access=Access.OPERATOR,
                reply=list[SetAsideView],
            ),
            Endpoint(
                method="POST",
                path=path,
                handler=self.readmit,
                access=Access.OPERATOR,
                body=Readmission,
                reply=SetAsideView,
            ),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """What a defect or damage kept the broker from processing, newest first; at most 1,000."""
        table = CODECS[SetAside].table
        newest = select(table).order_by(table.c.at.desc()).limit(SHOWN_MAX)
        return reply([_view(one) for one in self._store.find(SetAside, newest)])

    async def readmit(self, request: web.Request) -> web.StreamResponse:
        """Let something be tried again: an event when it is sent again, a job at the next start."""
        body = await read_body(request, Readmission)
        found = self._store.get(SetAside, body.id)
        if found is None or found.kind is SetAsideKind.UNREADABLE:
            raise InvalidRequest(
                f"nothing that can be tried again is set aside as {body.id!r}",
                hint="`tradepost broker set-aside` lists it; a damaged record is tried at each start.",
            )
        await self._engine.ask(Delete([Deletion(_FORGET, (found.id,))]))
        self._recovery.readmit(found.id)
        return reply(_view(found))


def _view(one: SetAside) -> SetAsideView:
    return SetAsideView(id=one.id, kind=one.kind.value, at=one.at, reason=one.reason)
