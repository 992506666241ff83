"""The log lines of broker and worker: a sentence for people, or with `--json` an object with its `action`.

A log quotes strangers: a path that a client asked for, a reason that a worker gave. In neither form can such
text begin a line of its own or move a terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import sys
from types import TracebackType
from typing import Final

from tradepost.untrusted_text import plain

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, message, and whatever `extra` carried."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of ASCII."""
        line: dict[str, object] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # JSON leaves DEL, which is a control character, as it is.
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


class LineFormatter(logging.Formatter):
    """One line for people per record, and the lines of a traceback below it."""

    def __init__(self, date_format: str | None = "%H:%M:%S") -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", date_format)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback if there is one."""
        record.exc_text = None  # another handler's formatter may have left its own here
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class names it
        """The line."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - the base class names it
        """The traceback, indented: its message may quote a stranger and have several lines."""
        return "\n".join(f"    {plain(line)}" for line in super().formatException(ei).split("\n"))


def set_up_logging(*, as_json: bool, level: str = "INFO", date_format: str | None = "%H:%M:%S") -> None:
    """Send this process's log to stderr. With `None` for `date_format`, lines have the date as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter(date_format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
