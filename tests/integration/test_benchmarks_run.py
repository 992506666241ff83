"""The benchmarks that compare with others run to their end; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_sandbox_is_compared_with_bare_engines() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "runner", "--rounds", "1", "--seconds", "0.01", "--json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=600,
    )
    rows = json.loads(ran.stdout)
    assert {row["name"].split(",")[0] for row in rows} == {"model", "kernel noop", "kernel topk"}
    assert all(row["ratio"] > 0 and row["ahead_ratio"] > 0 for row in rows)
