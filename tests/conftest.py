"""What holds for every test: the plugins in `tests/plugins`, and how Hypothesis reports a failure."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import settings

# `inherited` comes first, before another plugin reads what it resets.
pytest_plugins = ["inherited", "extended_run", "started_processes"]

# A failure prints the blob that reproduces it; `make extended` prints the seed of the run.
settings.register_profile("default", max_examples=100, deadline=None, print_blob=True)
settings.register_profile("extended", max_examples=10_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of loopback on which nothing listens, and which no other program gets during the test."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
