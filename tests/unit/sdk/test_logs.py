"""A log line is one line, whatever strangers are quoted in it."""

from __future__ import annotations

import io
import json
import logging
import sys
from types import FrameType
from typing import Any

import pytest

from tradepost.logs import _KINDS_MAX, JsonFormatter, LineFormatter, RepeatLimit

HOSTILE = "\x1b[2J\n\u2028\u202e\x7f\r"


def record(**fields: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": "a %s b", "args": (HOSTILE,), "levelname": "INFO"} | fields)


def failed() -> logging.LogRecord:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        return record(exc_info=sys.exc_info())


@pytest.mark.parametrize("formatter", [LineFormatter(), LineFormatter(None), JsonFormatter()])
def test_a_log_line_is_one_line(formatter: logging.Formatter) -> None:
    assert formatter.format(record()).isprintable()


def test_a_traceback_moves_no_cursor() -> None:
    first, *below = LineFormatter().format(failed()).split("\n")
    assert all(line.isprintable() for line in (first, *below))
    assert all(line.startswith("    ") for line in below)
    assert "    ValueError: \\x1b[2J" in below


def test_json_has_the_message_the_extra_facts_and_the_traceback() -> None:
    one = failed()
    one.action = "defect"
    line = JsonFormatter().format(one)
    assert line.isascii()
    assert line.isprintable()
    facts = json.loads(line)
    assert (facts["level"], facts["message"], facts["action"]) == ("info", f"a {HOSTILE} b", "defect")
    assert facts["traceback"].endswith(HOSTILE)


@pytest.mark.parametrize("formatter", [LineFormatter(), JsonFormatter()], ids=["line", "json"])
def test_lines_that_repeat_are_left_out_and_counted(formatter: logging.Formatter) -> None:
    now = 0.0
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(RepeatLimit(burst=3, per_s=1.0, monotonic=lambda: now))
    logger = logging.Logger("repeats")
    logger.addHandler(handler)
    for number in range(1000):
        logger.warning("A stranger sent %d", number)
    logger.warning("Something else")
    assert len(stream.getvalue().splitlines()) == 4
    now = 1.5
    logger.warning("A stranger sent %d", 1000)
    (line,) = stream.getvalue().splitlines()[4:]
    assert "A stranger sent 1000" in line
    assert "997" in line
    now = 2.5
    logger.warning("A stranger sent %d", 1001)
    assert "left_out" not in stream.getvalue().splitlines()[5]
    assert "left out" not in stream.getvalue().splitlines()[5]


def test_threads_that_log_at_once_disturb_no_call() -> None:
    """Another thread's line comes at every instruction of the filter, while each new kind replaces one."""
    limit = RepeatLimit()
    for number in range(_KINDS_MAX):
        limit.filter(record(msg=f"kind {number}"))
    left = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code is not RepeatLimit.filter.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                limit.filter(record(msg=f"another at {step}"))
        return trace

    before = sys.gettrace()
    for step in range(1, 1_000):
        left = step
        sys.settrace(trace)
        try:
            assert limit.filter(record(msg=f"one at {step}"))
        finally:
            sys.settrace(before)
        if left > 0:
            break
    assert step > 40  # else it was never disturbed in its midst
    assert len(limit._kinds) <= _KINDS_MAX + 1
