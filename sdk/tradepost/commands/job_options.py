"""Options of a job, which `submit` and `jobs estimate` share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tradepost.commands.number_options import number_option
from tradepost.errors import InvalidCommandLine
from tradepost.protocol import EngineFloor, Requirements
from tradepost.protocol.job_bounds import CONFIDENCE_MAX, CONFIDENCE_MIN, DEADLINE_S_MIN, SECONDS_MAX

Pipeline = Annotated[str, typer.Argument(help="The pipeline's CID, as `tradepost publish` prints it.")]
Confidence = Annotated[
    float,
    number_option(
        about="The minimum probability that the result is right.", low=CONFIDENCE_MIN, high=CONFIDENCE_MAX
    ),
]
DeadlineS = Annotated[
    float,
    number_option(about="The job's deadline in seconds from now.", low=DEADLINE_S_MIN, high=SECONDS_MAX),
]
Isolation = Annotated[list[str] | None, typer.Option(help="A sandbox layer that workers must have.")]
Provider = Annotated[
    list[str] | None, typer.Option(help="An execution provider; workers must have one of those given.")
]
Engine = Annotated[list[str] | None, typer.Option(help="The oldest version of an engine, as NAME=VERSION.")]
ScoreMin = Annotated[float, number_option(about="The minimum reputation score of workers.", low=0, high=1)]
Owner = Annotated[
    list[str] | None, typer.Option("--owner", help="An owner; only workers of those given may run the job.")
]
NotOwner = Annotated[
    list[str] | None, typer.Option("--not-owner", help="An owner whose workers may not run the job.")
]


def requirements_of(
    isolation: list[str] | None,
    provider: list[str] | None,
    engine: list[str] | None,
    score_min: float,
    owner: list[str] | None,
    not_owner: list[str] | None,
) -> Requirements:
    """The requirements that these options name. Raises `InvalidCommandLine`; the client checks the rest."""
    filters: dict[str, Any] = {
        "providers": tuple(provider or ()),
        "engines": tuple(map(_engine, engine or ())),
        "score_min": score_min,
        "owners_only": tuple(owner or ()),
        "owners_excluded": tuple(not_owner or ()),
    }
    given = {name: value for name, value in filters.items() if value}
    return Requirements(isolation=tuple(isolation or ()), **given)


def _engine(option: str) -> EngineFloor:
    name, _, version = option.partition("=")
    if not name or not version:
        raise InvalidCommandLine(f"--engine {option!r}: write NAME=VERSION")
    return EngineFloor(engine=name, version=version)
