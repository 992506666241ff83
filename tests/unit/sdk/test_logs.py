"""A log line is one line, whatever strangers are quoted in it."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from tradepost.logs import JsonFormatter, LineFormatter

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
