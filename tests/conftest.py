"""What holds for every test: the plugins in `tests/plugins`, and how Hypothesis reports a failure."""

from __future__ import annotations

import os

from hypothesis import settings

# `inherited` comes first, before another plugin reads what it resets.
pytest_plugins = ["inherited", "extended_run", "started_processes"]

# A failure prints the blob that reproduces it; `make extended` prints the seed of the run.
settings.register_profile("default", max_examples=100, deadline=None, print_blob=True)
settings.register_profile("extended", max_examples=10_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
