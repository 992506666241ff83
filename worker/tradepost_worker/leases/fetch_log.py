"""Logs the progress of a long fetch: a large artifact on a slow line would look like a hang."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from tradepost.content import Cid
from tradepost.content.transfer.fetch import FetchProgress

INTERVAL_S: Final = 5.0

log = logging.getLogger(__name__)


class FetchLog:
    """An `OnProgress` that writes a line every `interval_s` seconds, and none for what takes less."""

    def __init__(
        self,
        artifact: Cid,
        *,
        stage: str,
        interval_s: float = INTERVAL_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._artifact = artifact
        self._stage = stage
        self._interval_s = interval_s
        self._monotonic = monotonic
        self._logged_s = monotonic()

    def __call__(self, progress: FetchProgress) -> None:
        """Log how far the artifact is, if it is time."""
        now_s = self._monotonic()
        if now_s - self._logged_s < self._interval_s:
            return
        self._logged_s = now_s
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
