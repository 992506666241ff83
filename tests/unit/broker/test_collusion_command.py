"""`tradepost broker collusion` shows what was found from the database alone."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from tradepost_broker.cli import app
from tradepost_broker.market.model.entities import CollusionFinding
from tradepost_broker.settings import Settings
from tradepost_broker.storage.store import Store

FINDING = CollusionFinding(
    id="job1",
    found_at=1_000_000.0,
    owners=("alice", "bob"),
    jobs=("job0", "job1"),
    co_wrong=7,
    expected=0.2,
    p_value=1.5e-6,
)


def run(folder: Path, *options: str) -> str:
    result = CliRunner().invoke(
        app, ["collusion", "--data-dir", str(folder), *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    return result.output


def keep(folder: Path, *findings: CollusionFinding) -> None:
    store = Store(Settings(data_dir=folder).database_path)
    transaction = store.begin()
    for finding in findings:
        transaction.save(finding)
    transaction.flush()
    transaction.commit()
    store.close()


def test_a_finding_says_who_how_often_and_how_likely_that_is(tmp_path: Path) -> None:
    keep(tmp_path, FINDING)
    text = run(tmp_path)
    for part in ("alice, bob", "7 jobs", "0.20", "1.5e-06", "job0, job1"):
        assert part in text
    [found] = json.loads(run(tmp_path, "--json"))
    assert (found["owners"], found["co_wrong"]) == (["alice", "bob"], 7)


def test_without_findings_the_list_is_empty(tmp_path: Path) -> None:
    keep(tmp_path)
    assert json.loads(run(tmp_path, "--json")) == []
