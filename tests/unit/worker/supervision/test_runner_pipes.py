"""The pipes between agent and runner, where the platform has less to offer than Linux."""

from __future__ import annotations

import fcntl
import os

import pytest

from tradepost_worker.supervision.runner_spawn import widen_pipe


def test_pipes_stay_as_they_are_where_they_cannot_be_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fcntl, "F_SETPIPE_SZ", raising=False)
    reading, writing = os.pipe()
    try:
        widen_pipe(writing)
        os.write(writing, b"x")
        assert os.read(reading, 1) == b"x"
    finally:
        os.close(reading)
        os.close(writing)
