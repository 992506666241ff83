"""Who takes part in a run. The presets are named after the attacks that they are."""

from __future__ import annotations

from typing import Final

import msgspec

from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.simulation.submitters import attacking, ordinary
from tradepost_broker.simulation.submitters.model import SubmitterModel
from tradepost_broker.simulation.workers import cheating, disruptive, honest
from tradepost_broker.simulation.workers.model import WorkerModel
from tradepost_broker.simulation.world.network import HEALTHY, Faults

WORKER_MODELS: Final[dict[str, type[WorkerModel]]] = {
    model.name: model
    for model in (
        honest.Honest,
        honest.Slow,
        honest.Flaky,
        honest.PreemptedOwner,
        cheating.RandomCheat,
        cheating.PatientColluder,
        cheating.MeetingColluder,
        cheating.Lazy,
        cheating.Shortcut,
        cheating.Copycat,
        cheating.ShamWorker,
        cheating.SelfDealingWorker,
        cheating.Underbidder,
        cheating.Clique,
        cheating.SybilSwarm,
        disruptive.Accomplice,
        disruptive.Holder,
        disruptive.Preempter,
    )
}
SUBMITTER_MODELS: Final[dict[str, type[SubmitterModel]]] = {
    model.name: model
    for model in (
        ordinary.Customer,
        ordinary.FickleCustomer,
        attacking.PoisonSubmitter,
        attacking.RandomPublisher,
        attacking.ShamSubmitter,
        attacking.SelfDealer,
        attacking.AuditorStarver,
        attacking.CancelOracle,
    )
}
CONFIDENCES: Final = (0.9, 0.99, 0.999)


class Team(msgspec.Struct, frozen=True, kw_only=True):
    """So many workers of one model, of so many owners (0: one each), under one hand.

    They ask `price_microcredits` for a work unit; 0: about what honest workers ask, each its own.
    """

    model: str
    workers: int
    owners: int = 0
    hand: str = ""
    capacity: int = 2
    price_microcredits: int = 0


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One submitter. `hand` makes it one with a team of workers; see `SubmitterModel` for the rest."""

    model: str
    hand: str = ""
    rate_per_s: float = 1.0
    confidences: tuple[float, ...] = (0.9,)
    run_s: float = 2.0
    cap_microcredits: int = 20_000
    deadline_s: float = 300.0
    jobs_max: int = 0


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run follows from, beside its seed.

    Customers submit `jobs` in all. `outcomes_are_visible` says whether the broker shows outcomes of jobs that
    are not decided. `stake_microcredits` is what each worker joins with.
    """

    name: str
    about: str
    teams: tuple[Team, ...]
    accounts: tuple[Account, ...] = ()
    jobs: int = 2_000
    rate_per_s: float = 4.0
    deadline_s: float = 300.0
    confidences: tuple[float, ...] = CONFIDENCES
    auditors: int = 2
    auditor_capacity: int = 4
    stake_microcredits: int = 1_000_000
    outcomes_are_visible: bool = False
    faults: Faults = HEALTHY
    policy: MarketPolicy = MarketPolicy()


_HONEST: Final = Team(model="honest", workers=32)


def hostile_share(
    model: str, *, workers: int = 40, share: float = 0.2, confidences: tuple[float, ...] = CONFIDENCES
) -> Scenario:
    """A market in which this share of the workers behaves like `model`."""
    hostile = round(workers * share)
    teams = (Team(model="honest", workers=workers - hostile), Team(model=model, workers=hostile))
    about = f"{share:.0%} of {workers} workers: {(WORKER_MODELS[model].__doc__ or '').splitlines()[0]}"
    return Scenario(
        name=f"hostile-{model}",
        about=about,
        teams=teams,
        confidences=confidences,
        outcomes_are_visible=model == "copycat",
        accounts=_accomplices(model),
    )


def _accomplices(model: str) -> tuple[Account, ...]:
    """The submitter that a model of worker needs."""
    match model:
        case "sham-ring":
            return (
                Account(
                    model="sham-submitter", hand=model, rate_per_s=5.0, cap_microcredits=40, jobs_max=420
                ),
            )
        case "self-dealer":
            return (
                Account(
                    model="self-dealing-submitter",
                    hand=model,
                    rate_per_s=2.0,
                    cap_microcredits=600,
                    confidences=(0.75, 0.9),
                    jobs_max=420,
                ),
            )
        case "accomplice":
            return (Account(model="poison-submitter", hand=model, rate_per_s=2.0),)
        case _:
            return ()


_PRESETS: Final = (
    Scenario(
        name="honest",
        about="Nobody attacks: honest, slow, flaky and preempted workers on three execution providers.",
        teams=(
            Team(model="honest", workers=28),
            Team(model="slow", workers=4),
            Team(model="flaky", workers=4),
            Team(model="preempted-owner", workers=4),
        ),
        accounts=(Account(model="fickle-customer", rate_per_s=0.5),),
    ),
    Scenario(
        name="job-killer",
        about="One owner with five devices underbids, and gives every lease back as preempted.",
        teams=(Team(model="honest", workers=8), Team(model="preempter", workers=5, owners=1)),
        jobs=400,
        rate_per_s=1.0,
    ),
    Scenario(
        name="hold",
        about="One owner with five devices underbids, takes leases, and never answers; deadlines are short.",
        teams=(Team(model="honest", workers=8), Team(model="holder", workers=5, owners=1)),
        deadline_s=30.0,
        jobs=400,
        rate_per_s=1.0,
    ),
    Scenario(
        name="household",
        about="One owner with five devices, honest until believed alone, then cheats with all of them.",
        teams=(Team(model="honest", workers=12), Team(model="patient", workers=5, owners=1)),
        jobs=1_000,
        rate_per_s=2.0,
        confidences=(0.9, 0.99),
    ),
    Scenario(
        name="unstaked",
        about="A fifth of the workers is patient, and nobody has a stake.",
        teams=(Team(model="honest", workers=16), Team(model="patient", workers=4)),
        jobs=1_000,
        rate_per_s=2.0,
        confidences=(0.9, 0.99),
        stake_microcredits=0,
    ),
    Scenario(
        name="cancel-oracle",
        about="A submitter reads the outcome that the broker shows before the verdict, and cancels.",
        teams=(_HONEST,),
        accounts=(Account(model="cancel-oracle", rate_per_s=1.0, confidences=(0.999,)),),
        outcomes_are_visible=True,
    ),
    Scenario(
        name="copycat",
        about="A fifth of the workers copies the outcome that the broker shows before the verdict.",
        teams=(_HONEST, Team(model="copycat", workers=8)),
        outcomes_are_visible=True,
    ),
    Scenario(
        name="sham-farming",
        about="Two owners and their account run a pipeline that all others refuse, then cheat the rest.",
        teams=(Team(model="honest", workers=10), Team(model="sham-ring", workers=2)),
        accounts=_accomplices("sham-ring"),
        jobs=1_500,
        rate_per_s=2.0,
    ),
    Scenario(
        name="self-dealing",
        about="Two owners run their own account's jobs on the common pipeline, then cheat the rest.",
        teams=(Team(model="honest", workers=10), Team(model="self-dealer", workers=2)),
        accounts=_accomplices("self-dealer"),
        jobs=1_500,
        rate_per_s=2.0,
    ),
    Scenario(
        name="auditor-starvation",
        about="A ring floods the auditor with its own long jobs, while patient colluders cheat.",
        teams=(
            _HONEST,
            Team(model="patient", workers=8),
            Team(model="self-dealer", workers=4, hand="starver", capacity=8),
        ),
        accounts=(
            Account(
                model="auditor-starver",
                hand="starver",
                rate_per_s=8.0,
                run_s=16.0,
                cap_microcredits=400,
                confidences=(0.75,),
            ),
        ),
        auditor_capacity=2,
    ),
    Scenario(
        name="poison-jobs",
        about="A submitter whose jobs fail on every device, and who lifts each quarantine.",
        teams=(_HONEST,),
        accounts=(Account(model="poison-submitter", rate_per_s=2.0),),
    ),
    Scenario(
        name="poison-accomplice",
        about="Jobs that fail on every device but two accomplices', so that the others are blamed.",
        teams=(Team(model="honest", workers=12), Team(model="accomplice", workers=2)),
        accounts=_accomplices("accomplice"),
        jobs=1_000,
        rate_per_s=2.0,
    ),
    Scenario(
        name="poison-priced",
        about="Jobs that fail on every device but one accomplice's, which is dearer than the cheapest only.",
        teams=(Team(model="honest", workers=12), Team(model="accomplice", workers=1, price_microcredits=11)),
        accounts=(Account(model="poison-submitter", hand="accomplice", rate_per_s=2.0, confidences=(0.5,)),),
        jobs=60,
        rate_per_s=0.2,
    ),
    Scenario(
        name="nondeterministic-model",
        about="A model that gives another result in every run, so that honest workers contradict each other.",
        teams=(_HONEST,),
        accounts=(Account(model="random-publisher", rate_per_s=0.2, confidences=(0.99,)),),
    ),
    Scenario(
        name="everything",
        about="Every model of workers and all kinds of jobs, on a bad network and a broker that crashes.",
        teams=(
            Team(model="honest", workers=24),
            *(Team(model=name, workers=2) for name in WORKER_MODELS if name != "honest"),
        ),
        accounts=(
            *_accomplices("sham-ring"),
            *_accomplices("self-dealer"),
            Account(model="fickle-customer", rate_per_s=0.5),
            Account(model="poison-submitter", rate_per_s=0.1),
            Account(model="random-publisher", rate_per_s=0.05),
            Account(model="cancel-oracle", rate_per_s=0.1, confidences=(0.999,)),
        ),
        outcomes_are_visible=True,
        faults=Faults(loss=0.002, duplication=0.01, crash=0.0005, partition_every_s=120.0),
    ),
)
PRESETS: Final[dict[str, Scenario]] = {
    **{scenario.name: scenario for scenario in _PRESETS},
    **{
        scenario.name: scenario
        for scenario in (hostile_share(name) for name, model in WORKER_MODELS.items() if model.hostile)
    },
}
