"""The log lines of broker and worker: a sentence for people, or with `--json` an object with its `action`.

A log quotes strangers: a path that a client asked for, a reason that a worker gave. In neither form can such
text begin a line of its own or move a terminal's cursor.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final

from tradepost.plurals import counted
from tradepost.untrusted_text import plain

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_KIND_CHARS_MAX: Final = 200
#: Kinds of lines that are remembered; there are fewer in the code.
_KINDS_MAX: Final = 1_000
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
        line = plain(super().formatMessage(record))
        left_out = getattr(record, "lines_left_out", 0)
        if not left_out:
            return line
        lines = counted(left_out, "line like this was", "lines like this were")
        return f"{line} ({lines} left out before)"

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - the base class names it
        """The traceback, indented: its message may quote a stranger and have several lines."""
        return "\n".join(f"    {plain(line)}" for line in super().formatException(ei).split("\n"))


class RepeatLimit(logging.Filter):
    """Leaves out lines that repeat too often, and says with the next one how many these were.

    Lines repeat if they have the same logger, level and text before values are filled in. Of these, `burst`
    may come at once and `per_s` every second: a stranger may be able to cause them.
    """

    def __init__(
        self, *, burst: int = 100, per_s: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst = burst
        self._per_s = per_s
        self._monotonic = monotonic
        #: By kind of line: how many more may come, since when, and how many were left out.
        self._kinds: OrderedDict[tuple[str, int, str], tuple[float, float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        kind = (record.name, record.levelno, str(record.msg)[:_KIND_CHARS_MAX])
        now = self._monotonic()
        left, since, left_out = self._kinds.pop(kind, (float(self._burst), now, 0))
        left = min(self._burst, left + (now - since) * self._per_s)
        is_written = left >= 1
        self._kinds[kind] = (left - 1, now, 0) if is_written else (left, now, left_out + 1)
        if len(self._kinds) > _KINDS_MAX:
            self._kinds.popitem(last=False)  # at once: filters run in several threads, under no lock
        if is_written and left_out:
            record.lines_left_out = left_out
        return is_written


def set_up_logging(*, as_json: bool, level: str = "INFO", date_format: str | None = "%H:%M:%S") -> None:
    """Send this process's log to stderr. With `None` for `date_format`, lines have the date as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatLimit())
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter(date_format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
