"""The OpenAPI 3.1 document, made from the same declarations as the routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from aiohttp import web

from tradepost.errors import Problem
from tradepost_broker.web.endpoints import JSON, PROBLEM_JSON, Access, Endpoint, reply

_REF: Final = "#/components/schemas/{name}"
_SECURITY: Final[dict[Access, dict[str, Any]]] = {
    Access.ACCOUNT: {"type": "http", "scheme": "bearer", "description": "An account's API key."},
    Access.OPERATOR: {"type": "http", "scheme": "bearer", "description": "The operator's token."},
    Access.LEASE: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Lease <nonce>`: the nonce of an open lease, hexadecimal.",
    },
}


class OpenApiEndpoints:
    """These endpoints, and one more that serves the document of them all."""

    def __init__(self, endpoints: Iterable[Endpoint], *, version: str) -> None:
        own = Endpoint(method="GET", path="/openapi.json", handler=self.get, reply=dict[str, Any])
        self._endpoints = (*endpoints, own)
        self._document = openapi_document(self._endpoints, version=version)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """What is served."""
        return self._endpoints

    async def get(self, request: web.Request) -> web.StreamResponse:
        """This document."""
        return reply(self._document)


def openapi_document(endpoints: Iterable[Endpoint], *, version: str) -> dict[str, Any]:
    """The document for these endpoints."""
    endpoints = list(endpoints)
    kinds = _structs(endpoints)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tradepost broker", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {access.value: scheme for access, scheme in _SECURITY.items()},
        },
    }


def _structs(endpoints: list[Endpoint]) -> list[Any]:
    kinds = [kind for one in endpoints for kind in (one.body, one.reply) if kind not in (None, bytes)]
    return list({repr(kind): kind for kind in [*kinds, Problem]}.values())


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    text = inspect.getdoc(endpoint.handler) or ""
    operation: dict[str, Any] = {
        "summary": text.partition("\n")[0],
        "description": text,
        "operationId": f"{endpoint.method.lower()}{re.sub(r'[^a-z0-9]+', '_', endpoint.path.lower())}",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", endpoint.path)
        ],
        "responses": {
            str(endpoint.status): {
                "description": "Success.",
                **_content(endpoint.reply, endpoint.media, schemas),
            },
            "default": {
                "description": "An error (RFC 9457 problem details).",
                **_content(Problem, PROBLEM_JSON, schemas),
            },
        },
    }
    if endpoint.access is not Access.PUBLIC:
        operation["security"] = [{endpoint.access.value: []}]
    if endpoint.body is not None:
        media = endpoint.body_media if endpoint.body is bytes else JSON
        operation["requestBody"] = {"required": True, **_content(endpoint.body, media, schemas)}
    return operation


def _content(kind: Any, media: str, schemas: dict[str, Any]) -> dict[str, Any]:
    if kind is None:
        return {}
    schema = {"type": "string", "format": "binary"} if kind is bytes else schemas[repr(kind)]
    return {"content": {media: {"schema": schema}}}
