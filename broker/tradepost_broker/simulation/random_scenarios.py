"""Short scenarios with random members, networks, crashes and policies, for the search for defects."""

from __future__ import annotations

from typing import Any, Final

from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.scenarios import (
    SUBMITTER_MODELS,
    WORKER_MODELS,
    Account,
    Scenario,
    Team,
)
from tradepost_broker.simulation.world.network import Faults
from tradepost_broker.simulation.world.schedule import seeded

#: What a policy may say; the rest is as built in.
_POLICIES: Final[dict[str, tuple[Any, ...]]] = {
    "audit_rate": (0.0, 0.1, 0.5, 0.9),
    "hold_s": (5.0, 30.0),
    "retain_s": (1.0, 20.0),
    "idempotency_s": (120.0, 180.0),
    "reconnect_s": (2.0, 10.0),
    "late_receipt_s": (10.0, 30.0),
    "lease_grace_s": (5.0, 10.0),
    "proven_checks": (2.0, 10.0),
    "attempts_max": (3, 5),
    "audit_backlog_max": (2, 1_000),
    "partner_checks_max": (0.25, 1.0),
    "vouched_checks_max": (0.0, 0.5),
    "break_offs_free": (1.0, 6.0),
    "cool_off_s": (5.0, 60.0),
    "late_s_min": (0.5, 2.0),
    "recheck_rate": (0.0, 0.5, 1.0),
}


#: Hostile models that are drawn by their own names, so that the other draws of a seed stay as they were.
_DRAWN_APART: Final = ("shortcut",)


def random_scenario(seed: int) -> Scenario:
    """A short scenario that follows from a seed: who takes part, how bad the network is, and the policy."""
    rng = seeded(seed, "scenario")
    names = [name for name, model in WORKER_MODELS.items() if model.hostile and name not in _DRAWN_APART]
    hostile = rng.sample(names, rng.randint(0, 3))
    teams = [
        Team(model="honest", workers=rng.randint(4, 8), capacity=rng.randint(1, 6)),
        *(Team(model=name, workers=1) for name in ("slow", "flaky", "preempted-owner") if rng.random() < 0.5),
        *(Team(model=name, workers=rng.randint(1, 3), owners=rng.randint(0, 1)) for name in hostile),
    ]
    teams += [Team(model=name, workers=1) for name in _DRAWN_APART if seeded(seed, name).random() < 0.1]
    submitters = [name for name, model in SUBMITTER_MODELS.items() if model.hostile]
    accounts = [
        Account(
            model=name,
            hand=rng.choice(hostile) if hostile else "",
            rate_per_s=0.3,
            jobs_max=8,
            cap_microcredits=rng.choice((40, 600, 20_000)),
        )
        for name in rng.sample(submitters, rng.randint(0, 2))
    ]
    bad = rng.random() < 0.8
    faults = Faults(
        loss=rng.choice((0.0, 0.01, 0.05)) if bad else 0.0,
        duplication=rng.choice((0.0, 0.05, 0.2)) if bad else 0.0,
        crash=rng.choice((0.0, 0.01, 0.05)) if bad else 0.0,
        down_s=rng.choice((1.0, 10.0)),
        partition_every_s=rng.choice((0.0, 10.0)) if bad else 0.0,
        partition_s=rng.choice((5.0, 40.0)),
        detection_s=rng.choice((0.5, 5.0)),
    )
    return Scenario(
        name="random",
        about="A short scenario that follows from its seed.",
        teams=tuple(teams),
        accounts=(Account(model="fickle-customer", rate_per_s=0.5, jobs_max=8), *accounts),
        jobs=rng.randint(12, 30),
        rate_per_s=rng.choice((1.0, 4.0)),
        deadline_s=rng.choice((15.0, 60.0, 150.0)),
        auditors=rng.randint(0, 2),
        outcomes_are_visible=rng.random() < 0.3,
        faults=faults,
        policy=_random_policy(seed),
    )


def _random_policy(seed: int) -> MarketPolicy:
    """Each value follows from the seed and its own name, so that a new one leaves the others as they were."""
    return MarketPolicy(
        **{name: seeded(seed, "policy", name).choice(values) for name, values in _POLICIES.items()}
    )
