"""Two hundred short markets with random members, networks, crashes and policies: every invariant holds.

`tradepost market simulate random --seeds 100000` runs more of them.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.random_scenarios import random_scenario
from tradepost_broker.simulation.scenarios import (
    SUBMITTER_MODELS,
    WORKER_MODELS,
    Scenario,
    Team,
)
from tradepost_broker.simulation.simulation import Simulation

SEEDS = 200
CHUNK = 20

#: Small, and yet with results that disagree, a spot check, and payments that mature.
SMALL = Scenario(
    name="small",
    about="A few jobs.",
    teams=(Team(model="honest", workers=4), Team(model="random", workers=1)),
    jobs=3,
    rate_per_s=2.0,
    confidences=(0.9,),
    policy=MarketPolicy(
        audit_rate=0.5, hold_s=5.0, retain_s=1.0, idempotency_s=60.0, reconnect_s=10.0, late_receipt_s=5.0
    ),
)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_invariant_holds_after_every_event(first: int) -> None:
    for seed in range(first, first + CHUNK):
        Simulation(random_scenario(seed), seed).run()


def test_every_invariant_holds_whichever_write_the_broker_crashes_at() -> None:
    whole = Simulation(SMALL, 1)
    jobs = whole.run().confidences[0].jobs
    assert whole.broker.write_points > 60
    # In a run with a crash, what comes before it is the same; so all write points of the run are reached.
    for point in range(whole.broker.write_points):
        crashing = Simulation(SMALL, 1, crash_points=frozenset({point}))
        figures = crashing.run()
        assert figures.crashes == 1, point
        assert figures.confidences[0].jobs == jobs, point


def test_the_same_seed_gives_the_same_digest_in_any_process() -> None:
    program = (
        "from tradepost_broker.simulation.random_scenarios import random_scenario\n"
        "from tradepost_broker.simulation.simulation import Simulation\n"
        "print([Simulation(random_scenario(seed), seed).run().digest for seed in (3, 4)])\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(set(eval(digests.pop()))) == 2


def test_invariants_do_not_change_a_run() -> None:
    checked, unchecked = (Simulation(SMALL, 7, checked=checked).run() for checked in (True, False))
    assert checked == unchecked


@pytest.mark.parametrize("models", [WORKER_MODELS, SUBMITTER_MODELS])
def test_every_model_has_a_name_and_says_what_it_does(models: dict[str, type]) -> None:
    for name, model in models.items():
        assert name
        assert model.__dict__.get("__doc__"), name
