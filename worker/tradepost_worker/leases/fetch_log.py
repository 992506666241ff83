"""What the log tells of a fetch that takes long: a large artifact on a slow line would look like a hang."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from tradepost.content import Cid
from tradepost.content.transfer.fetch import Progress

INTERVAL_S: Final = 5.0

log = logging.getLogger(__name__)


class FetchLog:
    """An `OnProgress` that writes a line every `INTERVAL_S`, and none for what takes less."""

    def __init__(self, artifact: Cid, *, stage: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._artifact = artifact
        self._stage = stage
        self._clock = clock
        self._told_s = clock()

    def __call__(self, progress: Progress) -> None:
        """Tell how far the artifact is, if it is time."""
        now_s = self._clock()
        if now_s - self._told_s < INTERVAL_S:
            return
        self._told_s = now_s
        declared = "" if progress.bytes_total is None else f" of {progress.bytes_total:,}"
        log.info(
            "Fetching stage %s: %s%s bytes.",
            self._stage,
            f"{progress.bytes:,}",
            declared,
            extra={
                "action": "artifact_fetching",
                "artifact": self._artifact,
                "stage": self._stage,
                "bytes": progress.bytes,
                "bytes_total": progress.bytes_total,
            },
        )
