"""The demo keeps its promises whatever the machine's speed, and names each one that does not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tradepost.demo import cli
from tradepost.demo.market import catch_cheaters
from tradepost.demo.report import Report, WorkerReport


def worker(
    *, evidence: dict[str, int] | None = None, caught: bool = False, cheats: bool = True
) -> WorkerReport:
    return WorkerReport(
        name="mallory-1" if cheats else "ada",
        worker="w",
        price_microcredits=1,
        cheats=cheats,
        auditor=False,
        standing="expelled" if caught else "active",
        score=0.5,
        earned_microcredits=0,
        stake_microcredits=0,
        stake_lost_microcredits=0,
        accepted=0,
        evidence=evidence or {},
        findings=[],
        caught=caught,
        why="",
    )


UNSEEN, OUTVOTED = worker(), worker(evidence={"outvoted": 3})
ACCUSED, CAUGHT = worker(evidence={"contradicted": 1}), worker(evidence={"audit_failed": 1}, caught=True)


class Market:
    """A market in which the cheater stands like this, look by look; the last one stays. Time is its own."""

    def __init__(self, *standings: WorkerReport) -> None:
        self._standings = list(standings)
        self.now = 0.0
        self.asked: list[int] = []
        self.steps: list[str] = []

    async def look(self) -> list[WorkerReport]:
        one = self._standings.pop(0) if len(self._standings) > 1 else self._standings[0]
        return [worker(cheats=False), one]

    async def ask(self, count: int) -> None:
        self.asked.append(count)
        self.now += 5

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def catch(self) -> WorkerReport:
        standings = await catch_cheaters(
            self.look, self.ask, on_step=self.steps.append, clock=lambda: self.now, sleep=self.sleep
        )
        return standings[1]


@pytest.mark.parametrize(
    ("standings", "rounds"),
    [
        ([CAUGHT], 0),
        ([ACCUSED, ACCUSED, CAUGHT], 0),
        ([UNSEEN, UNSEEN, ACCUSED, CAUGHT], 2),
        ([OUTVOTED, ACCUSED, ACCUSED, CAUGHT], 1),
        ([ACCUSED, UNSEEN, CAUGHT], 1),  # the accusation was withdrawn
    ],
    ids=["caught", "accused", "no lease", "outvoted", "acquitted"],
)
async def test_more_digits_follow_until_a_reference_run_contradicts_the_cheater(
    standings: list[WorkerReport], rounds: int
) -> None:
    market = Market(*standings)
    assert (await market.catch()).caught
    assert len(market.asked) == rounds


async def test_slow_reference_runs_are_waited_for_as_long_as_evidence_comes() -> None:
    slow = [worker(evidence={"contradicted": 1 + n // 200}) for n in range(2_000)]
    market = Market(*slow, CAUGHT)
    assert (await market.catch()).caught
    assert market.now > 400
    assert not market.asked


@pytest.mark.parametrize("never", [UNSEEN, ACCUSED])
async def test_a_cheater_that_is_never_caught_is_given_up(never: WorkerReport) -> None:
    market = Market(never)
    assert not (await market.catch()).caught
    assert 0 < len(market.asked) < 50


# The report


def report_of(**changes: Any) -> Report:
    facts: dict[str, Any] = {
        "jobs": 24,
        "answered": 24,
        "accuracy": 1.0,
        "wrong_accepted": 0,
        "cheaters": 1,
        "cheaters_caught": 1,
        "latency_p50_ms": 1.0,
        "latency_p95_ms": 1.0,
        "paid_microcredits": 1,
        "replicas_per_job": 2.0,
        "workers": [CAUGHT],
        "pipeline": "p",
        "url": "http://127.0.0.1:1",
        "errors": [],
    }
    return Report(**{**facts, **changes})


BROKEN = [
    ({"answered": 22, "errors": ["no workers"]}, "2 of 24 digits were not answered"),
    ({"wrong_accepted": 1}, "1 wrong answer accepted"),
    (
        {"workers": [OUTVOTED], "cheaters_caught": 0},
        "the cheater mallory-1 was not caught: it is active, and its evidence is 3 outvoted",
    ),
    ({"workers": [UNSEEN], "cheaters_caught": 0}, "the cheater mallory-1 was not caught"),
]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs the command, whose market ends with a report."""
    app = typer.Typer()
    app.command()(cli.demo)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def run(report: Report, *options: str) -> Any:
        def run_demo(*_: object, on_report: Any, **__: object) -> Report:
            on_report(report)
            return report

        monkeypatch.setattr(cli, "run_demo", run_demo)
        return CliRunner().invoke(app, options)

    return run


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize(("changes", "words"), BROKEN)
def test_a_promise_that_did_not_hold_is_named_on_standard_error(
    demo: Any, changes: dict[str, Any], words: str, options: tuple[str, ...]
) -> None:
    run = demo(report_of(**changes), *options)
    assert run.exit_code == cli.PROMISE_BROKEN
    assert f"The demo failed: {words}" in run.stderr
    if options:
        assert json.loads(run.stdout)["jobs"] == 24


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_demo_that_kept_its_promises_says_nothing_there(demo: Any, options: tuple[str, ...]) -> None:
    run = demo(report_of(), *options)
    assert run.exit_code == 0
    assert "failed" not in run.stderr
