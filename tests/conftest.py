"""Settings that every test shares."""

from __future__ import annotations

import os

from hypothesis import settings

# From its import on, onnxruntime would report usage to its maker.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# `extended` is what CI runs at night; a failure prints the seed and the blob that reproduce it.
settings.register_profile("default", max_examples=100, deadline=None, print_blob=True)
settings.register_profile("extended", max_examples=10_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
