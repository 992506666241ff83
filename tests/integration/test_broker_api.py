"""The API says what it is: the OpenAPI document, the docs and the routes are one and the same list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tradepost import protocol
from tradepost_broker.reporting.views import BrokerInfo
from tradepost_broker.testing import LocalBroker
from tradepost_broker.web.endpoints import Access

DOCS = Path(__file__).parents[2] / "docs"


def routes(broker: LocalBroker) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in broker.running.parts.application.router.routes()
        if route.resource is not None
    }


async def test_the_openapi_document_has_every_route(broker: LocalBroker) -> None:
    document: dict[str, Any] = await broker.call("GET", "/openapi.json", reply=dict[str, Any])
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert documented == routes(broker)
    assert document["openapi"].startswith("3.1")
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
    assert _references(document) <= {
        f"#/components/schemas/{name}" for name in document["components"]["schemas"]
    }


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


async def test_the_docs_list_every_route(broker: LocalBroker) -> None:
    text = (DOCS / "http-api.md").read_text()
    documented = set(re.findall(r"^\| `([A-Z]+) ([^`]+)`", text, flags=re.MULTILINE))
    assert documented == routes(broker)


async def test_every_route_that_is_not_public_asks_who_it_is(broker: LocalBroker) -> None:
    guarded = [one for one in broker.running.parts.endpoints if one.access is not Access.PUBLIC]
    assert len(guarded) > 10
    for endpoint in guarded:
        path = re.sub(r"{\w+}", "x", endpoint.path)
        async with broker.session.request(endpoint.method, f"{broker.url}{path}") as response:
            assert response.status == 401, f"{endpoint.method} {endpoint.path}"


async def test_only_these_routes_are_public(broker: LocalBroker) -> None:
    public = {one.path for one in broker.running.parts.endpoints if one.access is Access.PUBLIC}
    assert public == {
        "/",
        "/dashboard.css",
        "/dashboard.js",
        "/dashboard.svg",
        "/healthz",
        "/ipfs/{cid}",
        "/ipfs/{cid}/{path}",
        "/metrics",
        "/openapi.json",
        "/pipelines",
        "/pipelines/{pipeline}",
        "/v1/dashboard.json",
        "/v1/dashboard/pipelines.json",
        "/v1/dashboard/pipelines/{pipeline}.json",
        "/v1/dashboard/workers.json",
        "/v1/dashboard/workers/{worker}.json",
        "/v1/info",
        "/v1/log/checkpoint",
        "/v1/log/key",
        "/v1/log/tile/{level}/{tile}",
        "/v1/pipelines",
        "/v1/pipelines/{cid}",
        "/v1/worker",
        "/v1/workers",
        "/v1/workers/{worker}",
        "/workers",
        "/workers/{worker}",
    }


async def test_the_broker_says_who_it_is_and_what_it_takes(broker: LocalBroker) -> None:
    info: BrokerInfo = await broker.call("GET", "/v1/info", reply=BrokerInfo)
    assert info.broker == broker.running.parts.broker.id
    assert info.inline_bytes_max == protocol.INLINE_BYTES_MAX
    assert await broker.call("GET", "/healthz") == b'{"status":"ok"}'


async def test_metrics_count_what_happened(broker: LocalBroker) -> None:
    key = await broker.account()
    worker = await broker.worker(serve=True)
    await broker.result(key, (await broker.submit(key, await broker.publish(key))).job)
    text = (await broker.call("GET", "/metrics")).decode()
    for line in (
        "tradepost_jobs_submitted_total 1.0",
        'tradepost_jobs_finished_total{status="accepted"} 1.0',
        "tradepost_leases_granted_total 1.0",
        "tradepost_workers_connected 1.0",
    ):
        assert line in text.splitlines()
    await worker.disconnect()
