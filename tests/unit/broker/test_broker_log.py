"""What a client asks for reaches the broker's log as one line, for people and as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from tradepost.logs import JsonFormatter, LineFormatter
from tradepost_broker.web.endpoints import errors_as_problems

FORGED = "/job\n12:00:00 INFO    forged\x1b[2J"


@pytest.fixture(params=[LineFormatter(), JsonFormatter()], ids=["line", "json"])
def logged(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


async def fail(request: web.Request) -> web.StreamResponse:
    raise RuntimeError(request.path)


async def test_a_path_with_control_characters_forges_no_log_line(logged: io.StringIO) -> None:
    app = web.Application(middlewares=[errors_as_problems])
    app.router.add_get(r"/{path:[\s\S]*}", fail)
    async with TestClient(TestServer(app)) as client:
        response = await client.get(URL.build(path=FORGED))
        assert response.status == 500
    lines = logged.getvalue().splitlines()
    assert any("forged" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("12:00:00 INFO    forged") for line in lines)
    if lines[0].startswith("{"):
        (line,) = lines
        assert json.loads(line)["action"] == "defect"
