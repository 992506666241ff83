"""The HTTP application: routes from declarations, one place for errors, bounds on what a request may be."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from aiohttp import web

from tradepost.content import BLOCK_BYTES_MAX
from tradepost_broker.access.credentials import Credentials
from tradepost_broker.streams.sockets import OPEN_SOCKETS, close_all
from tradepost_broker.web.endpoints import Endpoint, errors_as_problems, guarded
from tradepost_broker.web.slow_peers import cut_off_slow_readers


def build_application(endpoints: Iterable[Endpoint], credentials: Credentials) -> web.Application:
    """The application that serves `endpoints`. No body is held that is larger than one block."""
    app = web.Application(
        middlewares=[cut_off_slow_readers, errors_as_problems], client_max_size=BLOCK_BYTES_MAX
    )
    app[OPEN_SOCKETS] = weakref.WeakSet()
    for endpoint in endpoints:
        app.router.add_route(endpoint.method, endpoint.route or endpoint.path, guarded(endpoint, credentials))
    app.on_shutdown.append(close_all)
    return app
