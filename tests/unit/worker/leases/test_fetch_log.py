"""A long fetch of an artifact is told of, and a short one is not."""

from __future__ import annotations

import logging

import pytest

from tradepost.content import cid_of_block
from tradepost.content.transfer.fetch import FetchProgress
from tradepost_worker.leases.fetch_log import INTERVAL_S, FetchLog

ARTIFACT = cid_of_block(b"model", "raw")


def told(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.__dict__["bytes"] for record in caplog.records]


def test_a_line_is_written_at_most_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 100.0
    tell = FetchLog(ARTIFACT, stage="classify", monotonic=lambda: now_s)
    tell(FetchProgress(1, 10, 3000))
    now_s += INTERVAL_S - 1
    tell(FetchProgress(2, 20, 3000))
    assert told(caplog) == []
    now_s += 1
    tell(FetchProgress(3, 1030, 3000))
    tell(FetchProgress(4, 1040, 3000))
    assert told(caplog) == [1030]
    now_s += INTERVAL_S
    tell(FetchProgress(5, 2050, None))
    assert told(caplog) == [1030, 2050]
    first = caplog.records[0]
    assert first.getMessage() == "Fetching stage classify: 1,030 of 3,000 bytes."
    assert first.__dict__["action"] == "artifact_fetching"
    assert (first.__dict__["artifact"], first.__dict__["bytes_total"]) == (ARTIFACT, 3000)
