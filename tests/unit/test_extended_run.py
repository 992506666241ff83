"""The extended run counts what really ran, and a property that runs dry fails it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PROPERTIES = """
import pytest
from hypothesis import event, given, strategies as st

@pytest.mark.extended
@given(st.integers())
def test_integers(number):
    event("outcome: even" if number % 2 == 0 else "outcome: odd")

@pytest.mark.extended
@given(st.booleans())
def test_booleans(value):
    pass

@given(st.booleans())
def test_of_no_interest(value):
    pass
"""


@pytest.mark.process
def test_the_table_counts_examples_and_a_dry_generator_fails(tmp_path: Path) -> None:
    conftest = (TESTS / "conftest.py").read_text().replace("10_000", "1_200")
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_properties.py").write_text(PROPERTIES)
    plugins = shlex.quote(str(TESTS / "plugins"))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmarkers = extended\npythonpath = {plugins}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "1", "-m", "extended", "--hypothesis-seed=1"],
        cwd=tmp_path,
        env=os.environ | {"HYPOTHESIS_PROFILE": "extended"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "only 2 examples could be generated" in done.stdout
    row = r" 1,200 +\d+\.\d  test_properties\.py::test_integers: (even|odd) \d+\.\d%, (even|odd) \d+\.\d%"
    assert re.search(row, done.stdout), done.stdout
    assert re.search(r" 2 +\d+\.\d  test_properties\.py::test_booleans: \n", done.stdout), done.stdout
