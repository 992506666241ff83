"""`docs/simulation.md` has every scenario and every model, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tradepost_broker.simulation.scenarios import PRESETS, SUBMITTER_MODELS, WORKER_MODELS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()


def names_in_table(heading: str) -> set[str]:
    """The names in the first column of the table that has this heading."""
    [rows] = re.findall(rf"^\| {heading} \|.*\n\|---.*\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    return {name for row in rows.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("workers", set(WORKER_MODELS)),
        ("submitters", set(SUBMITTER_MODELS)),
        ("scenario", {name for name in PRESETS if not name.startswith("hostile-")}),
    ],
)
def test_every_name_is_documented(heading: str, names: set[str]) -> None:
    assert names_in_table(heading) == names


def test_every_hostile_model_has_a_scenario() -> None:
    hostile = {name for name, model in WORKER_MODELS.items() if model.hostile}
    assert {f"hostile-{name}" for name in hostile} == {
        name for name in PRESETS if name.startswith("hostile-")
    }
