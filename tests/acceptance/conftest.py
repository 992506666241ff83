"""What the acceptance tests install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tradepost as it is released, built from this tree."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-I", "-m", "build"]  # -I, since PYTHONPATH may name a folder with a build.py
    command = [*build, "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))
