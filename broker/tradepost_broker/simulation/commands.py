"""`tradepost market`: simulate a market, or decide a broker's journal again under another policy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tradepost.commands.number_options import integer_option, number_option
from tradepost.commands.options import Json
from tradepost.commands.terminal import show_json
from tradepost.errors import InvalidRequest, InvalidSettings, InvariantBroken, MissingDatabase
from tradepost.protocol.job_bounds import CONFIDENCE_MAX, CONFIDENCE_MIN
from tradepost.settings_loader import build_settings, settings_from_file
from tradepost_broker.market.model.policy import MarketPolicy
from tradepost_broker.settings import MARKET
from tradepost_broker.simulation.figures.figures import RunFigures, Speed
from tradepost_broker.simulation.figures.tables import confidence_table, summary, team_table
from tradepost_broker.simulation.invariants.broken import SimulationFailure
from tradepost_broker.simulation.random_scenarios import random_scenario
from tradepost_broker.simulation.replay.tables import replay_tables
from tradepost_broker.simulation.scenarios import (
    CONFIDENCES,
    PRESETS,
    WORKER_MODELS,
    Scenario,
    hostile_share,
)
from tradepost_broker.simulation.simulation import Simulation

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Simulate a market, or replay a broker's journal.",
)

Policy = Annotated[
    Path | None,
    typer.Option(
        "--policy", help="A TOML file with a market policy, as in broker.toml. Default: the built-in one."
    ),
]


@app.command()
def scenarios(as_json: Json = False) -> None:
    """List the scenarios."""
    if as_json:
        show_json({name: scenario.about for name, scenario in PRESETS.items()})
        return
    table = Table("scenario", "what happens")
    for name, scenario in PRESETS.items():
        table.add_row(name, scenario.about)
    Console(markup=False, emoji=False).print(table)


@app.command()
def simulate(
    scenario: Annotated[
        str, typer.Argument(help="A scenario's name, or `random` for a short one that follows from the seed.")
    ] = "everything",
    seed: Annotated[int, integer_option(low=0, about="The first seed.")] = 0,
    seeds: Annotated[int, integer_option(low=1, about="How many seeds to run, one after the other.")] = 1,
    jobs: Annotated[
        int | None, integer_option(low=1, about="Jobs of customers. Default: the scenario's.")
    ] = None,
    hostile: Annotated[
        str | None,
        typer.Option(help="A model of worker: simulate a share of such workers, without a scenario."),
    ] = None,
    share: Annotated[float, number_option(low=0, high=1, about="The share of workers for --hostile.")] = 0.2,
    workers: Annotated[int, integer_option(low=1, about="The number of workers for --hostile.")] = 40,
    auditors: Annotated[int | None, integer_option(low=0, about="Auditors. Default: the scenario's.")] = None,
    confidence: Annotated[
        list[float] | None,
        number_option(
            low=CONFIDENCE_MIN,
            high=CONFIDENCE_MAX,
            about="A confidence that customers ask for, repeated for several.",
        ),
    ] = None,
    policy: Policy = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Measure only; check no invariants.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the market's core in virtual time, and check its invariants after each event.

    The same scenario and seed give the same digest. With several seeds, the first broken invariant ends the
    run, and its seed is printed.
    """
    changes = {
        "jobs": jobs,
        "auditors": auditors,
        "confidences": tuple(confidence) if confidence else None,
        "policy": None if policy is None else policy_from_file(policy),
    }
    given = {name: value for name, value in changes.items() if value is not None}
    with _progress(seeds, hidden=as_json) as step:
        for number in range(seed, seed + seeds):
            chosen = _scenario(scenario, number, hostile, share, workers)
            figures, speed = _run(msgspec.structs.replace(chosen, **given), number, checked=not unchecked)
            if seeds == 1 or as_json:
                _show(figures, speed, as_json=as_json)
            step()
    if seeds > 1 and not as_json:
        typer.echo(f"{seeds:,} seeds from {seed} on: every invariant held.")


@app.command()
def replay(
    journal: Annotated[Path, typer.Argument(help="A broker's data folder, or its database.")],
    policy: Policy = None,
    seed: Annotated[int, integer_option(low=0, about="The seed of what must be estimated.")] = 0,
    as_json: Json = False,
) -> None:
    """Decide a broker's journal again, and print the digest; with --policy, compare another policy.

    The broker may be running. How workers would have answered leases that they never had is estimated from
    what they did with others.
    """
    from tradepost_broker.simulation.replay.comparison import compare_policies, replay_journal

    path = journal / "broker.sqlite3" if journal.is_dir() else journal
    if not path.exists():
        raise MissingDatabase(f"{path} does not exist", hint="Give a broker's data folder, or its database.")
    chosen = None if policy is None else policy_from_file(policy)
    from tradepost_broker.storage import database
    from tradepost_broker.storage.store import Reader

    with contextlib.closing(Reader(database.open_snapshot(path))) as reader:
        compared = None if chosen is None else compare_policies(reader, chosen, seed=seed)
        replayed = replay_journal(reader) if compared is None else compared.replay
    if as_json:
        show_json(compared or replayed)
    else:
        console = Console(markup=False, emoji=False)
        for table in replay_tables(replayed, compared):
            console.print(table)
        typer.echo(f"{replayed.events:,} events; digest {replayed.replayed}")
    if replayed.stored != replayed.replayed:
        raise InvariantBroken(
            f"the stored records have the digest {replayed.stored}, the replay {replayed.replayed}",
            hint="Run `tradepost broker verify-books` to see which records differ.",
        )


def policy_from_file(path: Path) -> MarketPolicy:
    """The policy in a TOML file, at its top or in its table `[market]`. Raises `InvalidSettings`."""
    if not path.exists():
        raise InvalidSettings(f"{path} does not exist", hint="Use the path of an existing policy file.")
    tree = settings_from_file(path)
    return build_settings(MarketPolicy, tree.get(MARKET, tree))


def _scenario(name: str, seed: int, hostile: str | None, share: float, workers: int) -> Scenario:
    if hostile is not None:
        if hostile not in WORKER_MODELS:
            raise InvalidRequest(f"no model {hostile!r}", hint=f"The models are {', '.join(WORKER_MODELS)}.")
        return hostile_share(hostile, workers=workers, share=share, confidences=CONFIDENCES)
    if name == "random":
        return random_scenario(seed)
    if name not in PRESETS:
        raise InvalidRequest(f"no scenario {name!r}", hint="`tradepost market scenarios` lists them.")
    return PRESETS[name]


def _run(scenario: Scenario, seed: int, *, checked: bool) -> tuple[RunFigures, Speed]:
    began = time.perf_counter()
    simulation = Simulation(scenario, seed, checked=checked, timer=time.perf_counter)
    try:
        figures = simulation.run()
    except SimulationFailure as failure:
        raise InvariantBroken(
            f"scenario {scenario.name}, seed {seed}: {failure}",
            hint=f"Run it again with --seed {seed}; the same seed breaks it at the same event.",
        ) from None
    speed = Speed(
        real_s=time.perf_counter() - began,
        core_s=simulation.broker.core_s,
        jobs=sum(one.jobs for one in figures.confidences),
        virtual_s=figures.virtual_s,
    )
    return figures, speed


def _show(figures: RunFigures, speed: Speed, *, as_json: bool) -> None:
    if as_json:
        show_json({"figures": figures, "speed": speed})
        return
    console = Console(markup=False, emoji=False)
    console.print(confidence_table(figures.confidences))
    console.print(team_table(figures.teams))
    for line in summary(figures, speed):
        typer.echo(line)


@contextlib.contextmanager
def _progress(total: int, *, hidden: bool) -> Iterator[Callable[[], None]]:
    """Shows on stderr how many of several seeds are done; gives the function that counts one."""
    if total == 1:
        yield lambda: None
        return
    with Progress(console=Console(stderr=True), disable=hidden) as progress:
        task = progress.add_task("seeds", total=total)
        yield lambda: progress.advance(task)
