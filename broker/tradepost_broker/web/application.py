"""The HTTP application: routes from declarations, one place for errors, bounds on what a request may be."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from aiohttp import web

from tradepost.content import BLOCK_BYTES_MAX
from tradepost_broker.access.caller_limits import ConcurrencyLimit
from tradepost_broker.access.credentials import Credentials
from tradepost_broker.streams.sockets import OPEN_SOCKETS, close_all
from tradepost_broker.web.caller_addresses import TRUSTED_PROXIES, address_group
from tradepost_broker.web.connections import Connections, count_requests
from tradepost_broker.web.endpoints import Endpoint, errors_as_problems, guarded
from tradepost_broker.web.request_bodies import BODIES, BODIES_BYTES_EACH_MAX, BODIES_BYTES_MAX
from tradepost_broker.web.slow_peers import cut_off_slow_readers


def build_application(
    endpoints: Iterable[Endpoint],
    credentials: Credentials,
    *,
    connections: Connections,
    trusted_proxies: Iterable[str] = (),
) -> web.Application:
    """The application that serves `endpoints`. No body is held that is larger than its endpoint allows."""
    app = web.Application(
        middlewares=[count_requests(connections), cut_off_slow_readers, errors_as_problems],
        client_max_size=BLOCK_BYTES_MAX,
    )
    app[OPEN_SOCKETS] = weakref.WeakSet()
    app[TRUSTED_PROXIES] = frozenset(map(address_group, trusted_proxies))
    app[BODIES] = ConcurrencyLimit(
        "bytes of request bodies at once", total=BODIES_BYTES_MAX, each=BODIES_BYTES_EACH_MAX
    )
    for endpoint in endpoints:
        app.router.add_route(endpoint.method, endpoint.route or endpoint.path, guarded(endpoint, credentials))
    app.on_shutdown.append(close_all)
    return app
