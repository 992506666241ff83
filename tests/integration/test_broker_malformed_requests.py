"""Requests that are not valid HTTP. Anybody can send them: each is one line in the log, and no defect."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tradepost_broker.testing import LocalBroker
from tradepost_broker.web.server_log import ServerLog

JOIN = b"POST /v1/workers HTTP/1.1\r\nHost: market\r\n"
#: What is sent, and the reason that is logged for it.
UNPARSABLE = {
    "an oversized header": (
        b"GET / HTTP/1.1\r\nHost: market\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
        "Got more than 8190 bytes",
    ),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", "Missing 'Host' header"),
    "two lengths": (
        JOIN + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "can't be present with Content-Length",
    ),
    "a bad byte in the path": (b"GET /\xff\x00 HTTP/1.1\r\nHost: market\r\n\r\n", "Invalid char in url path"),
    "a bad authority": (b"CONNECT a:99999999 HTTP/1.1\r\nHost: market\r\n\r\n", "a:99999999"),
    "a version that is not there": (b"GET / HTTP/9.9\r\nHost: market\r\n\r\n", "Bad status line"),
    "a bad chunk": (
        JOIN + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        "Invalid character in chunk size",
    ),
}


async def answer_to(broker: LocalBroker, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(broker.running.host, broker.running.port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("what", UNPARSABLE)
async def test_a_request_that_cannot_be_parsed_is_one_line_in_the_log(
    broker: LocalBroker, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    data, reason = UNPARSABLE[what]
    caplog.set_level(logging.INFO)
    assert b" 400 " in await answer_to(broker, data)
    [line] = [record for record in caplog.records if getattr(record, "action", "") == "malformed_request"]
    assert line.levelno == logging.INFO
    assert "127.0.0.1" in line.getMessage()
    assert reason in line.getMessage()
    assert len(line.getMessage()) < 200
    assert tracebacks(caplog) == []


@pytest.mark.parametrize("path", [b"/v1/workers", b"/nowhere"])
async def test_a_body_that_is_not_encoded_as_declared_is_the_callers_fault(
    broker: LocalBroker, caplog: pytest.LogCaptureFixture, path: bytes
) -> None:
    caplog.set_level(logging.INFO)
    answer = await answer_to(
        broker,
        b"POST " + path + b" HTTP/1.1\r\nHost: market\r\nConnection: close\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    )
    assert b"invalid-request" in answer
    assert tracebacks(caplog) == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_defect_in_the_server_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    defect = RuntimeError("a defect")
    ServerLog().exception("Error handling request from %s", "127.0.0.1", exc_info=defect)
    [line] = caplog.records
    assert (line.levelno, line.exc_info and line.exc_info[1]) == (logging.ERROR, defect)
